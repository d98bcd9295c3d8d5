"""Networks that clean pictures: a small residual U-Net, and the strided autoencoder of introductory tutorials."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config.kinds import FOLD

_SHUFFLE = 2  # the U-Net's finest level has half the picture's side: a quarter of the work, nearly the same quality


def _silence(convolution: nn.Conv2d) -> None:
    """Has an untrained convolution answer zeros."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)


class OnPicture(nn.Module):
    """Lets a network of whole pictures stand where one of folded pictures is expected."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, folded: Tensor) -> Tensor:
        """float32 (N, 16 C, H/4, W/4) -> the same, through (N, C, H, W)."""
        return F.pixel_unshuffle(self.network(F.pixel_shuffle(folded, FOLD)), FOLD)


class ResidualBlock(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        _silence(self.second)  # without norms, blocks that begin as the identity keep training stable

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same."""
        return x + self.second(F.relu(self.first(x)))


class UNet(nn.Module):
    """Predicts what is wrong with a picture and takes it away.

    Ronneberger et al., *U-Net* (2015), with the residual learning of Zhang et al., *DnCNN* (2017). Every coarser level
    also sees the picture itself, averaged to its size, where noise has already fallen by half a level: training gets
    there several times faster. No batch norm: its statistics would mix pictures of different noise.
    """

    def __init__(self, *, channels: int, width: int, depth: int) -> None:
        """Sets up the layers.

        Args:
            channels: C of the picture.
            width: channels at the finest level; each coarser one has twice as many.
            depth: coarser levels.
        """
        super().__init__()
        inside = channels * _SHUFFLE**2
        widths = [width * 2**level for level in range(depth + 1)]
        self.head = nn.Conv2d(inside, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in pairwise(widths))
        self.seen = nn.ModuleList(nn.Conv2d(channels, w, 3, padding=1) for w in widths[1:])
        self.bottom = nn.Sequential(ResidualBlock(widths[-1]), ResidualBlock(widths[-1]))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])
        self.tail = nn.Conv2d(width, inside, 3, padding=1)
        _silence(self.tail)  # untrained, it leaves the picture as it is

    def forward(self, picture: Tensor) -> Tensor:
        """float32 (N, C, H, W), sides multiples of 2 -> the cleaned picture, the same shape."""
        x = self.head(F.pixel_unshuffle(picture, _SHUFFLE))
        average = F.avg_pool2d(picture, _SHUFFLE)
        skips = []
        for block, shrink, seen in zip(self.down, self.shrink, self.seen, strict=True):
            x = block(x)
            skips.append(x)
            average = _halved(average)
            x = F.relu(shrink(x) + seen(average))
        x = self.bottom(x)
        for block, grow, skip in reversed(list(zip(self.up, self.grow, skips, strict=True))):
            # An odd side was halved upwards: what is too much is cut off.
            grown = F.pixel_shuffle(grow(x), 2)[:, :, : skip.shape[2], : skip.shape[3]]
            x = block(skip + grown)
        return picture - F.pixel_shuffle(self.tail(F.relu(x)), _SHUFFLE)


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2; an odd side is halved upwards."""
    odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2
    if odd_height or odd_width:
        x = F.pad(x, (0, odd_width, 0, odd_height), mode="replicate")
    return F.avg_pool2d(x, 2)


class StridedDenoiser(nn.Module):
    """Two strided convolutions of 16 and 8 channels and their transposes, as in introductory tutorials."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, 2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 3, 2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 16, 3, 2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.Conv2d(16, channels, 3, padding=1),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """float32 (N, C, H, W), 0 to 1, sides multiples of 4 -> the same."""
        return torch.sigmoid(self.layers(picture))
