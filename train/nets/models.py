"""Encoders and decoders around one latent vector for the whole picture: ours, and those of introductory tutorials.

The latent is one vector and not a map: a local defect cannot pass along its own position, so it stays in the residual.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from train.config.base import FOLD

_LEAST_FLAT = 2  # numbers before the latent's linear layer, as a multiple of the latent's


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class Upsample(nn.Module):
    """Doubles height and width, or nearly; a convolution after interpolation leaves no checkerboard."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ~height/2, ~width/2) -> (N, C, height, width)."""
        return self.conv(F.interpolate(x, size=self.size, mode="bilinear", align_corners=False))


def conv_networks(
    *, channels: int, height: int, width: int, hidden: int, depth: int, outputs: int, latent: int, units: int = 0
) -> tuple[nn.Sequential, nn.Sequential]:
    """Our encoder and decoder of standardised maps; an odd side is halved upwards.

    Args:
        channels: C of the maps.
        height: h of the maps.
        width: w of the maps.
        hidden: channels inside.
        depth: halvings.
        outputs: of the encoder: L, or 2 L where it gives means and log-variances.
        latent: L, what the decoder takes.
        units: of a dense layer between the latent and either network; 0 for none.
    """
    sides = [(height, width)]
    for _ in range(depth):
        sides.append(tuple(-(-side // 2) for side in sides[-1]))  # type: ignore[arg-type]
    positions = sides[-1][0] * sides[-1][1]
    bottom = (max(1, hidden // 4, -(-_LEAST_FLAT * outputs // positions)), *sides[-1])
    flat = bottom[0] * positions
    encoder = nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.SiLU(),
        *(_conv(hidden, hidden, stride=2) for _ in range(depth)),
        nn.Conv2d(hidden, bottom[0], 1),
        nn.Flatten(),
        *([nn.Linear(flat, units), nn.SiLU()] if units else []),
        nn.Linear(units or flat, outputs),
    )
    decoder = nn.Sequential(
        *([nn.Linear(latent, units), nn.SiLU()] if units else []),
        nn.Linear(units or latent, flat),
        nn.Unflatten(1, bottom),
        _conv(bottom[0], hidden),
        *(Upsample(hidden, *size) for size in reversed(sides[:-1])),
        nn.Conv2d(hidden, channels, 1),
    )
    return encoder, decoder


def dense_networks(
    *, shape: tuple[int, int, int], hidden: int | None, outputs: int, latent: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The tutorials' dense encoder and decoder of shape (C, h, w), with one hidden layer or none.

    The last activation of either is left to who asks.
    """
    flat = shape[0] * shape[1] * shape[2]
    inner = [nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, outputs)] if hidden else [nn.Linear(flat, outputs)]
    outer = [nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, flat)] if hidden else [nn.Linear(latent, flat)]
    return nn.Sequential(nn.Flatten(), *inner), nn.Sequential(*outer, nn.Unflatten(1, shape))


def strided_networks(
    *, channels: int, height: int, width: int, outputs: int, latent: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The tutorials' convolutions of 32 and 64 channels and stride 2, and their transposes, of folded pictures.

    Args:
        channels: of the picture, before folding.
        height: of the picture, px.
        width: of the picture, px.
        outputs: of the encoder.
        latent: L.
    """
    bottom = (height // 4, width // 4)
    positions = bottom[0] * bottom[1]
    encoder = nn.Sequential(
        nn.PixelShuffle(FOLD),
        nn.Conv2d(channels, 32, 3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * positions, outputs),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, 32 * positions),
        nn.ReLU(),
        nn.Unflatten(1, (32, *bottom)),
        nn.ConvTranspose2d(32, 64, 3, 2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 3, 2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(32, channels, 3, padding=1),
        nn.PixelUnshuffle(FOLD),
    )
    return encoder, decoder


class Autoencoder(nn.Module):
    """Reconstructs standardised maps through a bottleneck that only what good pictures share fits through."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, C, h, w) -> its reconstruction, same shape."""
        return self.decoder(self.encoder(x))
