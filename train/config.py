"""Hyper-parameters: defaults, a TOML file and `--set KEY=VALUE` -> one validated, frozen model."""

import difflib
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edged.imaging import ImageInput
from train import backbone
from train.errors import ConfigError

PIXELS: Final = "pixels"
EFFICIENTNET: Final = "efficientnet-lite0"
FOLD: Final = 4
"""Pixel models see the picture folded into patches of FOLD x FOLD pixels, one patch a position."""


def _by_backbone(*, features: Any, pixels: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: pixels if data.get("backbone") == PIXELS else features


class AutoencoderConfig(BaseModel):
    """Everything that decides what `python -m train ae` makes of a folder of pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: Literal["efficientnet-lite0", "pixels"] = Field(
        EFFICIENTNET, description="what the autoencoder sees: features of a frozen ImageNet trunk, or the pixels"
    )
    size: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] = Field(
        (256, 256), description="height and width of the model's picture, px; one number for a square"
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for RGB; the ImageNet trunk takes 3")
    resize: Literal["stretch", "pad", "crop"] = Field("stretch", description="how a picture comes to that size")
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = Field("bilinear", description="of the resampling")

    width: int = Field(
        default_factory=_by_backbone(features=64, pixels=48), ge=4, le=512, description="channels inside the networks"
    )
    depth: int = Field(
        default_factory=_by_backbone(features=3, pixels=3), ge=1, le=6, description="halvings on the way to the latent"
    )
    latent: int = Field(32, ge=1, le=4096, description="numbers that a whole picture is squeezed into")
    noise: float = Field(0.0, ge=0, le=2, description="deviation of noise on the input while training; features have 1")

    epochs: int = Field(20, ge=1, le=10_000, description="passes over the fit pictures")
    patience: int = Field(10, ge=1, le=10_000, description="epochs without a better loss on the statistics pictures")
    batch_size: int = Field(16, ge=1, le=1024, description="pictures a step")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak of AdamW's; a cosine from there to 0")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="AdamW's")

    regions: int = Field(16, ge=1, le=64, description="the map has this many by this many covariances")
    shrinkage: float = Field(0.03, gt=0, le=10, description="of a covariance towards its mean variance")
    smoothing: float = Field(0.5, ge=0, le=8, description="sigma of the map's Gaussian, map positions; 0 for none")
    top: int = Field(10, ge=1, le=10_000, description="highest map positions that a score is the mean of")

    target_fpr: float = Field(0.01, gt=0, lt=1, description="false-positive rate that calibration shall promise")
    statistics_share: float = Field(0.15, gt=0, le=0.5, description="of the pictures that calibration leaves")
    seed: int = Field(0, ge=0, lt=2**32, description="of the split, the weights and the order")
    data_licence: str = Field("not stated", max_length=300, description="licence of the pictures, for the bundle")

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "AutoencoderConfig":
        problems = []
        features = self.backbone == EFFICIENTNET
        stride, least = (backbone.STRIDE, 8) if features else (FOLD, FOLD)
        if any(side % stride for side in self.size):
            problems.append(f"size: {list(self.size)} must be multiples of {stride} for backbone = {self.backbone}")
        elif any((side // least) % 2**self.depth for side in self.size):
            problems.append(f"depth: {self.depth} halvings need sides that are multiples of {least * 2**self.depth}")
        if any((side // least) % self.regions for side in self.size):
            shape = " x ".join(str(side // least) for side in self.size)
            problems.append(f"regions: {self.regions} does not divide the map of {shape} positions")
        if features and self.channels != 3:
            problems.append("channels: the ImageNet trunk takes 3 (grey pictures are repeated)")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def image_input(self) -> ImageInput:
        """What the model takes, as the bundle's manifest has it."""
        height, width = self.size
        return ImageInput(height, width, self.channels, self.resize, self.filter)


def load(file: Path | None, assignments: Sequence[str]) -> AutoencoderConfig:
    """Defaults, overridden by a TOML file, overridden by `KEY=VALUE` assignments.

    Raises:
        ConfigError: every problem at once.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    if file is not None:
        try:
            values |= tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from error
        except ValueError as error:  # not UTF-8, or not TOML
            raise ConfigError([f"{file}: is not valid TOML: {error}"]) from error
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if separator:
            values[key.strip()] = _value(text.strip())
        else:
            problems.append(f"--set {assignment}: write KEY=VALUE, for example --set epochs=40")
    try:
        config = AutoencoderConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(problems + [line for item in error.errors() for line in _explain(item)]) from error
    if problems:
        raise ConfigError(problems)
    return config


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word, which a shell makes of a quoted string
        return text


def _explain(item: Any) -> list[str]:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = AutoencoderConfig.model_fields
        near = difflib.get_close_matches(where, known, n=3) or sorted(known)
        return [f"{where}: there is no such key; did you mean {', '.join(near)}?"]
    if not where:
        return str(item["ctx"]["error"]).splitlines()
    return [f"{where}: {item['msg']}, not {item['input']!r}"]
