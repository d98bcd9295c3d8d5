"""The convolutional autoencoder: encoder -> one latent vector for the whole picture -> decoder."""

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class Upsample(nn.Module):
    """Doubles height and width; a convolution after interpolation leaves no checkerboard."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


class ConvAutoencoder(nn.Module):
    """Reconstructs standardised maps through a bottleneck that only what good pictures share fits through.

    The latent is one vector and not a map: a local defect cannot pass along its own position, so it stays in the
    residual.
    """

    def __init__(self, *, channels: int, height: int, width: int, hidden: int, depth: int, latent: int) -> None:
        """Sets up the layers.

        Args:
            channels: C of the maps.
            height: h of the maps; 2**depth must divide it.
            width: w of the maps, likewise.
            hidden: channels inside.
            depth: halvings.
            latent: L, length of the latent vector.
        """
        super().__init__()
        bottom = (max(1, hidden // 4), height >> depth, width >> depth)
        flat = bottom[0] * bottom[1] * bottom[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.SiLU(),
            *(_conv(hidden, hidden, stride=2) for _ in range(depth)),
            nn.Conv2d(hidden, bottom[0], 1),
            nn.Flatten(),
            nn.Linear(flat, latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, flat),
            nn.Unflatten(1, bottom),
            _conv(bottom[0], hidden),
            *(Upsample(hidden) for _ in range(depth)),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, C, h, w) -> its reconstruction, same shape."""
        return self.decoder(self.encoder(x))
