"""Hyper-parameters of `python -m train ae` with `input = "signal"`: one-dimensional signals in place of pictures."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from edged.media.signals import SignalInput
from train.config.base import FitConfig
from train.errors import TrainError

SAMPLES: Final = "samples"

Width = Annotated[int, Field(ge=1, le=65536)]

_POSITIONS: Final = 16
_MOST_FOLDED: Final = 64  # channels of a patch; the covariances grow with its square
_LEAST_BOTTOM: Final = 8
_NOMINAL: Final = (1, 256)  # channels and length until the files have been seen


def _shape(data: dict[str, Any]) -> tuple[int, int]:
    return data.get("channels") or _NOMINAL[0], data.get("length") or _NOMINAL[1]


def _fitting_patch(data: dict[str, Any]) -> int:
    channels, length = _shape(data)
    return _even(length, min(-(-length // _POSITIONS), max(1, _MOST_FOLDED // channels)))


def _even(length: int, patch: int) -> int:
    """The smallest patch that covers a length in as many positions: none of them is nearly empty."""
    return -(-length // -(-length // patch))


def _fitting_regions(data: dict[str, Any]) -> int:
    positions = -(-_shape(data)[1] // int(data.get("patch", 1)))
    return max(n for n in range(1, _POSITIONS + 1) if positions % n == 0)


def _fitting_depth(data: dict[str, Any]) -> int:
    length = _shape(data)[1]
    return max(n for n in range(9) if n == 0 or -(-length // 2**n) >= _LEAST_BOTTOM)


class SignalConfig(FitConfig):
    """Everything that decides what `python -m train ae` makes of a folder of signals."""

    input: Literal["signal"] = Field("signal", description="what one item is")
    backbone: Literal["samples"] = Field(SAMPLES, description="a signal's autoencoder works on its samples")
    channels: int | None = Field(
        None, ge=1, le=1024, description="of a signal; none: as most of the first 200 files have"
    )
    length: int | None = Field(
        None, ge=8, le=1_000_000, description="samples a channel; none: as most of the first 200 files have"
    )
    scaling: Literal["deviation", "range"] = Field(
        "deviation", description="of each channel: to mean 0 and deviation 1; or to 0 to 1, with a sigmoid at the end"
    )

    architecture: Literal["conv", "dense"] = Field(
        "conv", description="one-dimensional convolutions around one latent; or dense layers"
    )
    width: int = Field(32, ge=4, le=512, description="channels inside the convolutions")
    depth: int = Field(
        default_factory=_fitting_depth, ge=0, le=12, description="halvings on the way to the latent; by length"
    )
    hidden: tuple[Width, ...] = Field((32, 16), max_length=8, description="units of the dense layers, outermost first")
    latent: int = Field(16, ge=1, le=4096, description="numbers that a whole signal is squeezed into")

    loss: Literal["mse", "mae"] = Field("mse", description="mean squared error, or mean absolute error")
    noise: float = Field(0.0, ge=0, le=2, description="deviation of noise on the input while training; signals have 1")
    mix: float = Field(
        0.0, ge=0, le=0.5, description="learns from copies as well that hold up to this share of another good signal"
    )
    epochs: int = Field(60, ge=1, le=10_000, description="passes over the fit signals")
    patience: int = Field(
        20, ge=1, le=10_000, description="stop after this many epochs without a better loss on held-out signals"
    )

    patch: int = Field(
        default_factory=_fitting_patch,
        ge=1,
        le=65536,
        description="samples that one position of the map stands for; by length",
    )
    regions: int = Field(
        default_factory=_fitting_regions,
        ge=1,
        le=64,
        description="the map has this many covariances; by length and patch",
    )
    shrinkage: float = Field(0.3, gt=0, le=10, description="of a covariance towards its mean variance")
    smoothing: float = Field(0.0, ge=0, le=8, description="sigma of the map's Gaussian, map positions; 0 for none")
    score: Literal["error", "map"] = Field(
        "error", description="the whole signal's reconstruction error, or the mean of the map's highest positions"
    )
    top: int = Field(2, ge=1, le=10_000, description="highest map positions, where the score is the map's")

    @model_validator(mode="after")
    def _fits_together(self) -> "SignalConfig":
        if self.channels is None or self.length is None:  # until the files have been seen
            return self
        problems = []
        if self.patch > self.length:
            problems.append(f"patch: {self.patch} samples are more than the signal's {self.length}")
        elif (even := _even(self.length, self.patch)) != self.patch:
            problems.append(f"patch: {self.patch} leaves the last position nearly empty; {even} does not")
        elif self.positions % self.regions:
            problems.append(f"regions: {self.regions} does not divide the map of {self.positions} positions")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def for_pictures(self, n: int) -> Self:
        """The same: regions of signals do not depend on how many there are."""
        del n
        return self

    @property
    def positions(self) -> int:
        """Of the map: patches that cover the signal, the last one perhaps in part."""
        return -(-self.spec.length // self.patch)

    @property
    def spec(self) -> SignalInput:
        """What the model takes, as the bundle's manifest has it.

        Raises:
            TrainError: channels and length are not known yet.
        """
        if self.channels is None or self.length is None:
            raise TrainError("channels and length of the signals are not known yet")
        return SignalInput(self.channels, self.length)

    def shaped(self, channels: int, length: int) -> "SignalConfig":
        """The same for signals of this shape, where it does not say otherwise; what depends on it is set anew."""
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        return SignalConfig.model_validate({"channels": channels, "length": length, **given})
