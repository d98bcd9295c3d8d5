"""Hyper-parameters: defaults, a TOML file and `--set KEY=VALUE` -> one validated, frozen model of a kind."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from train.config.base import EFFICIENTNET, FOLD, PIXELS, ModelConfig, by_backbone, fitting_depth
from train.config.denoiser import DenoiserConfig
from train.config.explained import explain
from train.config.signal import SignalConfig
from train.config.vae import VaeConfig
from train.errors import OptionError

__all__ = ["EFFICIENTNET", "FOLD", "KINDS", "PIXELS", "AutoencoderConfig", "Config", "Flips", "load", "of_input"]

Config = ModelConfig | SignalConfig
Flips = Literal["none", "horizontal", "vertical", "both"]


PRESETS: Final[dict[str, dict[str, Any]]] = {
    "fast": {"size": 192},
    "balanced": {},
    "accurate": {"stages": [4, 5, 6]},
}
"""What a preset gives to keys that are not set, where the model sees features; docs/experiments.md says why."""


class AutoencoderConfig(ModelConfig):
    """Everything that decides what `python -m train ae` makes of a folder of pictures; `SignalConfig` is of signals."""

    input: Literal["image"] = Field("image", description='what one item is; input = "signal" has keys of its own')
    preset: Literal["fast", "balanced", "accurate"] = Field(
        "balanced", description="trade of speed for accuracy, for features; other keys, where set, come before it"
    )
    backbone: Literal["efficientnet-lite0", "pixels"] = Field(
        EFFICIENTNET, description="what the autoencoder sees: features of a frozen ImageNet trunk, or the pixels"
    )
    architecture: Literal["conv", "dense"] = Field(
        "conv", description="ours; or one dense layer to the latent and one back, on pixels"
    )
    width: int = Field(
        default_factory=by_backbone(features=64, pixels=48), ge=4, le=512, description="channels inside the networks"
    )
    depth: int = Field(
        default_factory=fitting_depth, ge=0, le=6, description="halvings on the way to the latent; by size"
    )
    latent: int = Field(32, ge=1, le=4096, description="numbers that a whole picture is squeezed into")
    calibration: Literal["cross", "split"] = Field(
        default_factory=by_backbone(features="cross", pixels="split"),
        description="every picture fits and calibrates, out of fold (features); or a part calibrates and nothing else",
    )
    loss: Literal["mse", "mae"] = Field("mse", description="mean squared error, or mean absolute error")
    noise: float = Field(0.0, ge=0, le=2, description="deviation of noise on the input while training; features have 1")

    shift: float = Field(
        0.0, ge=0, le=0.25, description="learns from moved copies as well, by up to this share of height and width"
    )
    brightness: float = Field(
        default_factory=by_backbone(features=0.2, pixels=0.0),
        ge=0,
        le=0.5,
        description="learns from copies that are brighter or darker by up to this share as well",
    )
    flips: Flips = Field("none", description="learns from mirrored copies as well: left-right, upside down, or both")

    @model_validator(mode="wrap")
    @classmethod
    def _by_preset(cls, values: Any, handler: ModelWrapValidatorHandler["AutoencoderConfig"]) -> "AutoencoderConfig":
        if not isinstance(values, dict) or values.get("backbone") == PIXELS:
            return handler(values)
        chosen = values.get("preset", "balanced")
        given = PRESETS.get(chosen, {}) if isinstance(chosen, str) else {}
        config = handler({**given, **values})
        config.model_fields_set.difference_update(given.keys() - values.keys())  # nobody has set what a preset gives
        return config

    @model_validator(mode="after")
    def _fits_together(self) -> "AutoencoderConfig":
        problems = self.map_problems()
        if self.architecture == "dense" and self.backbone != PIXELS:
            problems.append("architecture: dense works on pixels; set backbone=pixels")
        if self.calibration == "cross" and self.backbone == PIXELS:
            problems.append(
                "calibration: cross takes pictures out of a head on features; an autoencoder on pixels is itself "
                "fitted to them: set calibration=split"
            )
        if self.cross and self.calibration_share:
            problems.append("calibration_share: sets pictures aside, which cross does not; set calibration=split too")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def cross(self) -> bool:
        """Whether every good picture fits and calibrates."""
        return self.calibration == "cross"


KINDS: Final[dict[str, type[ModelConfig]]] = {"ae": AutoencoderConfig, "denoiser": DenoiserConfig, "vae": VaeConfig}
"""What `python -m train KIND` takes."""

_OTHER_INPUT: Final[dict[type[Config], type[Config]]] = {
    AutoencoderConfig: SignalConfig,
    SignalConfig: AutoencoderConfig,
}


def of_input(kind: type[ModelConfig], values: Mapping[str, Any]) -> type[Config]:
    """The model of a kind that fits its `input`: autoencoders take signals too.

    Raises:
        OptionError: there is no such input, or this kind takes pictures alone.
    """
    given = values.get("input", "image")
    if given == "image":
        return kind
    if given != "signal":
        raise OptionError([f"input: {given!r} is neither image nor signal"])
    if kind is AutoencoderConfig:
        return SignalConfig
    raise OptionError(["input: signals are for `python -m train ae`; denoisers and VAEs take pictures"])


def load(kind: type[ModelConfig], file: Path | None, assignments: Sequence[str]) -> Config:
    """A kind's defaults, overridden by a TOML file, overridden by `KEY=VALUE` assignments; for either input.

    Raises:
        OptionError: every problem at once.
    """
    values, problems, from_file = _gather(file, assignments)
    chosen = of_input(kind, values)
    if values.get("input") == "image":
        values.pop("input")
    try:
        config = chosen.model_validate(values)
    except ValidationError as error:
        told = [
            line
            for item in error.errors()
            for line in explain(
                item,
                chosen,
                file=str(file) if {*item["loc"][:1]} & from_file else None,
                other=_OTHER_INPUT.get(chosen),
            )
        ]
        raise OptionError(problems + list(dict.fromkeys(told))) from error  # a key of two forms is told of twice
    if problems:
        raise OptionError(problems)
    return config


def _gather(file: Path | None, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str], set[str]]:
    """Values by key, what is wrong already, and the keys whose value stands in the file."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    if file is not None:
        try:
            values |= tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError([f"{file}: cannot be read: {error.strerror}"]) from error
        except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
            raise OptionError([f"{file}: is not valid TOML: {error}"]) from error
    from_file = set(values)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if separator:
            values[key.strip()] = _value(text.strip())
            from_file.discard(key.strip())
        else:
            problems.append(f"--set {assignment}: write KEY=VALUE, for example --set epochs=40")
    return values, problems, from_file


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # a bare word, which a shell makes of a quoted string; or nothing sensible
        return text
