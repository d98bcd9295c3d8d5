"""Hyper-parameters of `python -m train denoiser`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from train.config.base import FOLD, PIXELS, ModelConfig

Deviation = Annotated[float, Field(ge=0, le=1)]
Photons = Annotated[float, Field(gt=0, le=1e6)]


class DenoiserConfig(ModelConfig):
    """Everything that decides what `python -m train denoiser` makes of a folder of pictures."""

    backbone: Literal["pixels"] = Field(PIXELS, description="a denoiser works on pixels")
    architecture: Literal["unet", "strided"] = Field(
        "unet", description="a residual U-Net, or two strided convolutions and their transposes"
    )
    width: int = Field(16, ge=4, le=256, description="channels at the U-Net's finest level; doubled at each coarser")
    depth: int = Field(3, ge=1, le=5, description="coarser levels of the U-Net, each with half the side")
    crop: int = Field(64, ge=8, le=4096, description="side of the random crops trained on, px; a multiple of 4")

    noise: tuple[Deviation, Deviation] = Field(
        (0.0, 0.2), description="standard deviation of Gaussian noise, on 0 to 1: lowest, highest; one number for both"
    )
    poisson: float = Field(0.2, ge=0, le=1, description="share of the pictures with Poisson noise in its place")
    photons: tuple[Photons, Photons] = Field(
        (20.0, 1000.0), description="of a white pixel, for Poisson noise: lowest, highest"
    )
    structured: float = Field(
        0.25, ge=0, le=1, description="share with a pasted patch, a Perlin-mask blend or an occlusion to repair"
    )

    loss: Literal["psnr", "mse"] = Field(
        "psnr", description="mean over pictures of the logarithm of the squared error, or of the squared error"
    )
    epochs: int = Field(10, ge=1, le=10_000, description="passes over as many pixels as the fit pictures have")
    batch_size: int = Field(8, ge=1, le=1024, description="crops in each step of the training")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="size of a training step, at its peak (AdamW's)")

    @field_validator("noise", mode="before")
    @classmethod
    def _one_level(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "DenoiserConfig":
        problems = self.map_problems()
        if self.mask is not None:
            problems.append("mask: a denoiser cleans all of a picture; give the mask to the detector behind it")
        if self.crop % FOLD:
            problems.append(f"crop: {self.crop} must be a multiple of {FOLD}")
        for key in ("noise", "photons"):
            low, high = getattr(self, key)
            if low > high:
                problems.append(f"{key}: the lowest, {low:g}, is above the highest, {high:g}")
        if problems:
            raise ValueError("\n".join(problems))
        return self
