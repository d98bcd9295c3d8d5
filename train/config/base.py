"""Hyper-parameters that kinds of models share: how they are fitted, what they see of pictures, how they score."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from edged.media.imaging import ImageInput

PIXELS: Final = "pixels"
EFFICIENTNET: Final = "efficientnet-lite0"
FOLD: Final = 4
"""Pixel models see the picture folded into patches of FOLD x FOLD pixels, one patch a position."""
_FEATURE_STRIDE: Final = 16

Side = Annotated[int, Field(ge=8, le=4096)]
Stage = Annotated[int, Field(ge=3, le=6)]

STAGE_CHANNELS: Final = {3: 24, 4: 40, 5: 80, 6: 112}
"""Channels of the maps in which the stages of EfficientNet-Lite0 end, numbered as in the paper's table 1."""

_MOST_REGIONS: Final = 16
_LEAST_SAMPLES: Final = 0.65  # a channel, for a covariance; docs/experiments.md has the curves that cross there
_LEAST_BOTTOM: Final = 4


def by_backbone(*, features: Any, pixels: Any) -> Callable[[dict[str, Any]], Any]:
    """A default that depends on what the model sees."""
    return lambda data: pixels if data.get("backbone") == PIXELS else features


def map_sides(data: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the map that the model works on, of the keys validated so far."""
    stride = FOLD if data.get("backbone") == PIXELS else data.get("stride", _FEATURE_STRIDE)
    height, width = data.get("size", (256, 256))
    return height // stride, width // stride


def fitting_depth(data: dict[str, Any]) -> int:
    """Halvings, up to 3, that leave 4 positions a side or more."""
    side = min(map_sides(data))
    return max(n for n in range(4) if n == 0 or -(-side // 2**n) >= _LEAST_BOTTOM)


class FitConfig(BaseModel):
    """How any model, of pictures or signals, is fitted and calibrated; a kind may give a key another default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(20, ge=1, le=10_000, description="passes over the fit part of what is good")
    patience: int = Field(
        10, ge=1, le=10_000, description="stop after this many epochs without a better loss on what is held out"
    )
    batch_size: int = Field(16, ge=2, le=1024, description="pictures, or signals, in each step of the training")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="size of a training step, at its peak (AdamW's)")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the learning rate: a short rise and a cosine down to 0, or the peak throughout"
    )
    weight_decay: float = Field(1e-5, ge=0, le=1, description="how hard weights are pulled towards 0 (AdamW's)")

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
        description="share of what is good, at least, that calibrates; 0: no more than the rate takes",
    )
    statistics_share: float = Field(
        0.15,
        gt=0,
        le=0.5,
        description="share held out to stop and to scale by, of what calibration leaves",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of what is random: the split, the weights, the order")
    data_licence: str = Field("not stated", max_length=300, description="licence of the data, for the bundle")

    @property
    def cross(self) -> bool:
        """Whether every good picture fits and calibrates, out of fold; else parts of them do."""
        return False

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any) -> Any:
        if isinstance(value, bool):  # there is none among the keys, and pydantic would take true for 1
            raise ValueError("not a number")
        return value


class ModelConfig(FitConfig):
    """What every kind of model of pictures has; a kind may give a key another default."""

    backbone: Literal["efficientnet-lite0", "pixels"] = Field(
        PIXELS, description="what the model sees: features of a frozen ImageNet trunk, or the pixels"
    )
    stages: tuple[Stage, ...] = Field(
        (4, 6), min_length=1, description="stages of the trunk whose maps are joined; 3 is the finest, 6 the last"
    )
    stride: Literal[8, 16] = Field(
        _FEATURE_STRIDE, description="pixels a side that one position of the joined maps stands for"
    )
    size: tuple[Side, Side] = Field(
        (256, 256), description="height and width of the model's picture, px; one number for a square"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for RGB; the ImageNet trunk takes 3")
    resize: Literal["stretch", "pad", "crop"] = Field("stretch", description="how a picture comes to that size")
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="how pixels are averaged when a picture is resized"
    )

    regions: int = Field(
        0, ge=0, le=64, description="the map has this many by this many covariances; 0: as the pictures allow, up to 16"
    )
    shrinkage: float = Field(0.02, gt=0, le=10, description="of a covariance towards its mean variance")
    smoothing: float = Field(
        default_factory=by_backbone(features=0.0, pixels=0.5),
        ge=0,
        le=8,
        description="sigma of the map's Gaussian, map positions; 0 for none",
    )
    top: int = Field(
        default_factory=by_backbone(features=3, pixels=10),
        ge=1,
        le=10_000,
        description="highest map positions that a score is the mean of",
    )

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    def map_problems(self) -> list[str]:
        """What does not fit together of size, backbone, channels and regions: one line each."""
        features = self.backbone == EFFICIENTNET
        stride, multiple = (self.stride, 16) if features else (FOLD, FOLD)
        problems = []
        if list(self.stages) != sorted(set(self.stages)):
            problems.append(f"stages: {list(self.stages)} must be rising, each stage once")
        if any(side % multiple for side in self.size):
            problems.append(f"size: {list(self.size)} must be multiples of {multiple} for backbone = {self.backbone}")
        if self.regions and any((side // stride) % self.regions for side in self.size):
            shape = " x ".join(str(side // stride) for side in self.size)
            problems.append(f"regions: {self.regions} does not divide the map of {shape} positions")
        if features and self.channels != 3:
            problems.append("channels: the ImageNet trunk takes 3 (grey pictures are repeated)")
        return problems

    def for_pictures(self, n: int) -> Self:
        """The same, its regions settled for so many pictures: the most, up to 16 a side, that have samples enough."""
        if self.regions:
            return self
        data = self.model_dump()
        height, width = map_sides(data)
        channels = sum(STAGE_CHANNELS[stage] for stage in self.stages)
        if self.backbone == PIXELS:
            channels = self.channels * FOLD**2
        wanted = _LEAST_SAMPLES * channels
        fitting = [r for r in range(1, _MOST_REGIONS + 1) if height % r == 0 and width % r == 0]
        enough = [r for r in fitting if n * (height // r) * (width // r) >= wanted]
        return self.model_copy(update={"regions": max(enough, default=1)})

    @property
    def spec(self) -> ImageInput:
        """What the model takes, as the bundle's manifest has it."""
        height, width = self.size
        return ImageInput(height, width, self.channels, self.resize, self.filter)
