"""Hyper-parameters that kinds of models share: how they are fitted, what they see of pictures, how they score."""

import math
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
Split = Annotated[int, Field(ge=0, le=256)]
Tiles = Annotated[int, Field(ge=1, le=16)]
Pixel = Annotated[int, Field(ge=0, le=100_000)]

STAGE_CHANNELS: Final = {3: 24, 4: 40, 5: 80, 6: 112}
"""Channels of the maps in which the stages of EfficientNet-Lite0 end, numbered as in the paper's table 1."""
STAGE_STRIDE: Final = {3: 4, 4: 8, 5: 16, 6: 16}
"""Pixels a side that one position of these maps stands for."""

_MOST_REGIONS: Final = 256
_MOST_SPLIT: Final = 16  # of a side of a square map
_LEAST_POSITIONS: Final = 3  # a side of a map that follows its pictures
DEFECT_PX: Final = 8.0
"""Model pixels that the smallest defect shall cover a side: half a position of the map at stride 16."""
_MOST_PX: Final = 4096
_TILE_PX: Final = 512
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
        (256, 256),
        description="height and width of the model's picture, px: [256, 640], or 640x256 (width x height), or 256; not "
        "set: as many pixels in the pictures' own shape",
    )
    tiles: tuple[Tiles, Tiles] | None = Field(
        None,
        description="rows and columns of tiles that overlap, in which features of a large picture are computed one "
        "after the other: [3, 4], or 3x4; not set: as many as keep a tile to about 512 x 512",
    )
    defect_px: float | None = Field(
        None, ge=1, le=10_000, description="smallest defect to find, px of the files: where size is not set, sets it"
    )
    roi: tuple[Pixel, Pixel, Pixel, Pixel] | None = Field(
        None, description="the part to look at, px of the files: X,Y,W,H (left, top, width and height, 1 or more)"
    )
    mask: str | None = Field(None, max_length=4096, description="a picture of where to look, of any size: not at black")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for RGB; the ImageNet trunk takes 3")
    resize: Literal["stretch", "pad", "crop"] = Field("stretch", description="how a picture comes to that size")
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="how pixels are averaged when a picture is resized"
    )

    regions: Split | tuple[Split, Split] = Field(
        0,
        description="the map has this many by this many covariances, or [rows, columns]; 0: as the pictures allow, up "
        "to 256 in all",
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
        if isinstance(value, str) and (sides := value.lower().split("x")) and all(map(str.isdecimal, sides)):
            width, height = sides if len(sides) == 2 else sides * 2 if len(sides) == 1 else (0, 0)
            return int(height), int(width)
        return (value, value) if isinstance(value, int) else value

    @field_validator("tiles", mode="before")
    @classmethod
    def _rows_by_columns(cls, value: Any) -> Any:
        return value.lower().split("x") if isinstance(value, str) else value

    @field_validator("roi", mode="before")
    @classmethod
    def _rectangle(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("roi")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value is not None and min(value[2:]) < 1:
            raise ValueError("empty")
        return value

    def map_problems(self) -> list[str]:
        """What does not fit together of size, backbone, channels and regions: one line each."""
        features = self.backbone == EFFICIENTNET
        stride, multiple = (self.stride, 16) if features else (FOLD, FOLD)
        problems = []
        if list(self.stages) != sorted(set(self.stages)):
            problems.append(f"stages: {list(self.stages)} must be rising, each stage once")
        if any(side % multiple for side in self.size):
            problems.append(f"size: {list(self.size)} must be multiples of {multiple} for backbone = {self.backbone}")
        if self.regions and any((side // stride) % n for side, n in zip(self.size, grid(self.regions), strict=True)):
            shape = " x ".join(str(side // stride) for side in self.size)
            problems.append(f"regions: {self.regions} does not divide the map of {shape} positions")
        if self.tiles is not None and not features:
            problems.append("tiles: are of features; a model of pixels takes the picture whole")
        if self.tiles is not None and any(side < 2 * 16 * n for side, n in zip(self.size, self.tiles, strict=True)):
            problems.append(f"tiles: {list(self.tiles)} are too many for a picture of {list(self.size)} px")
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
        rows, columns = ([m for m in range(1, side + 1) if side % m == 0] for side in (height, width))
        fitting = [(r, c) for r in rows for c in columns if r * c <= _MOST_REGIONS and (height != width or r == c)]
        enough = [(r, c) for r, c in fitting if n * (height // r) * (width // c) >= wanted]
        # As many as there may be; of equally many those whose shape is nearest to a square.
        best = max(enough, default=(1, 1), key=lambda g: (g[0] * g[1], -abs(math.log(height * g[1] / (width * g[0])))))
        return self.model_copy(update={"regions": best[0] if height == width else best})

    def shaped(self, source: tuple[int, int]) -> Self:
        """The same for pictures of this width and height: `size` follows them where it is not set.

        As many pixels as the size that it stands in for, in the shape of what is looked at; or where `defect_px` asks
        for more, so many that such a defect covers some pixels of the model's picture. What depends on it is set anew.

        Args:
            source: width and height of the pictures in their files, px.
        """
        given = {key: getattr(self, key) for key in self.model_fields_set}
        if "size" in given:
            return self._tiled(given)
        width, height = source if self.roi is None else self.roi[2:]
        stride = self.stride if self.backbone == EFFICIENTNET else FOLD
        # Pixel models would take multiples of 4; but a denoiser's picture is to be that of the detector behind it.
        rows, columns = (math.lcm(16, stride * (n or 1)) for n in grid(self.regions))
        wanted = 0.0 if self.defect_px is None else height * width * (DEFECT_PX / self.defect_px) ** 2
        budget = self.size[0] * self.size[1]
        size = _fitting_size(height, width, steps=(rows, columns), pixels=max(budget, min(wanted, height * width)))
        return self._tiled({**given, "size": size})

    def _tiled(self, given: dict[str, Any]) -> Self:
        """What these keys make, in tiles where none are set and the picture is large."""
        size = given["size"]
        if self.backbone == EFFICIENTNET and self.tiles is None and max(size) > 2 * _TILE_PX:
            given = {**given, "tiles": tuple(math.ceil(side / _TILE_PX) for side in size)}
        return type(self).model_validate(given)

    def spec_of(self, source: tuple[int, int] | None) -> ImageInput:
        """What the model takes, as the manifest has it, of pictures of this width and height in their files."""
        height, width = self.size
        return ImageInput(height, width, self.channels, self.resize, self.filter, roi=self.roi, source=source)

    @property
    def spec(self) -> ImageInput:
        """What the model takes, where the size of pictures in their files does not matter."""
        return self.spec_of(None)


def grid(regions: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of covariances."""
    return (regions, regions) if isinstance(regions, int) else regions


def _fitting_size(height: int, width: int, *, steps: tuple[int, int], pixels: float) -> tuple[int, int]:
    """Height and width, multiples of `steps`: about so many pixels, and nearest to the shape of height x width."""
    best, least = (steps[0], steps[1]), math.inf
    for rows in range(1, _MOST_PX // steps[0] + 1):
        ideal = rows * steps[0] * width / height / steps[1]
        for columns in {math.floor(ideal), math.ceil(ideal), int(pixels / (rows * steps[0] * steps[1]))}:
            size = rows * steps[0], columns * steps[1]
            if columns < 1 or size[1] > _MOST_PX or size[0] * size[1] > 1.001 * pixels:
                continue
            if min(size) < _LEAST_POSITIONS * min(steps) and pixels > (_LEAST_POSITIONS * max(steps)) ** 2 * 4:
                continue
            apart = abs(math.log(size[1] * height / (size[0] * width))) + math.log(pixels / (size[0] * size[1]))
            if apart < least:
                best, least = size, apart
    return best
