"""Hyper-parameters that every kind of model has: what it sees, how it is fitted, how it scores."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from edged.imaging import ImageInput

PIXELS: Final = "pixels"
EFFICIENTNET: Final = "efficientnet-lite0"
FOLD: Final = 4
"""Pixel models see the picture folded into patches of FOLD x FOLD pixels, one patch a position."""
FEATURE_STRIDE: Final = 8
"""Pixels a side that one position of the trunk's joined features stands for."""

Side = Annotated[int, Field(ge=8, le=4096)]

_MOST_REGIONS: Final = 16
_LEAST_BOTTOM: Final = 4


def by_backbone(*, features: Any, pixels: Any) -> Callable[[dict[str, Any]], Any]:
    """A default that depends on what the model sees."""
    return lambda data: pixels if data.get("backbone") == PIXELS else features


def map_sides(data: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the map that the model works on, of the keys validated so far."""
    stride = FOLD if data.get("backbone") == PIXELS else FEATURE_STRIDE
    height, width = data.get("size", (256, 256))
    return height // stride, width // stride


def fitting_regions(data: dict[str, Any]) -> int:
    """The most regions a side, up to 16, that divide the map."""
    height, width = map_sides(data)
    return max(n for n in range(1, _MOST_REGIONS + 1) if height % n == 0 and width % n == 0)


def fitting_depth(data: dict[str, Any]) -> int:
    """Halvings, up to 3, that leave 4 positions a side or more."""
    side = min(map_sides(data))
    return max(n for n in range(4) if n == 0 or -(-side // 2**n) >= _LEAST_BOTTOM)


class ModelConfig(BaseModel):
    """What every kind shares; a kind may give a key another default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: Literal["efficientnet-lite0", "pixels"] = Field(
        PIXELS, description="what the model sees: features of a frozen ImageNet trunk, or the pixels"
    )
    size: tuple[Side, Side] = Field(
        (256, 256), description="height and width of the model's picture, px; one number for a square"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for RGB; the ImageNet trunk takes 3")
    resize: Literal["stretch", "pad", "crop"] = Field("stretch", description="how a picture comes to that size")
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="how pixels are averaged when a picture is resized"
    )

    epochs: int = Field(20, ge=1, le=10_000, description="passes over the fit pictures")
    patience: int = Field(
        10, ge=1, le=10_000, description="stop after this many epochs without a better loss on held-out pictures"
    )
    batch_size: int = Field(16, ge=1, le=1024, description="pictures in each step of the training")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="size of a training step, at its peak (AdamW's)")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the learning rate: a short rise and a cosine down to 0, or the peak throughout"
    )
    weight_decay: float = Field(1e-5, ge=0, le=1, description="how hard weights are pulled towards 0 (AdamW's)")

    regions: int = Field(
        default_factory=fitting_regions, ge=1, le=64, description="the map has this many by this many covariances"
    )
    shrinkage: float = Field(0.03, gt=0, le=10, description="of a covariance towards its mean variance")
    smoothing: float = Field(0.5, ge=0, le=8, description="sigma of the map's Gaussian, map positions; 0 for none")
    top: int = Field(10, ge=1, le=10_000, description="highest map positions that a score is the mean of")

    target_fpr: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false-positive rate that calibration shall promise; 0.01 flags 1 good part in 100",
    )
    calibration_share: float = Field(
        0.0,
        ge=0,
        le=1 / 3,
        description="share of the good pictures, at least, that calibrate; 0: no more than the rate takes",
    )
    statistics_share: float = Field(
        0.15,
        gt=0,
        le=0.5,
        description="share held out to stop and to scale by, of the pictures that calibration leaves",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of what is random: the split, the weights, the order")
    data_licence: str = Field("not stated", max_length=300, description="licence of the pictures, for the bundle")

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    def map_problems(self) -> list[str]:
        """What does not fit together of size, backbone, channels and regions: one line each."""
        features = self.backbone == EFFICIENTNET
        stride, multiple = (FEATURE_STRIDE, 16) if features else (FOLD, FOLD)
        problems = []
        if any(side % multiple for side in self.size):
            problems.append(f"size: {list(self.size)} must be multiples of {multiple} for backbone = {self.backbone}")
        if any((side // stride) % self.regions for side in self.size):
            shape = " x ".join(str(side // stride) for side in self.size)
            problems.append(f"regions: {self.regions} does not divide the map of {shape} positions")
        if features and self.channels != 3:
            problems.append("channels: the ImageNet trunk takes 3 (grey pictures are repeated)")
        return problems

    @property
    def spec(self) -> ImageInput:
        """What the model takes, as the bundle's manifest has it."""
        height, width = self.size
        return ImageInput(height, width, self.channels, self.resize, self.filter)
