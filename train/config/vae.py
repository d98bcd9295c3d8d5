"""Hyper-parameters of `python -m train vae`."""

from typing import Literal

from pydantic import Field, model_validator

from train.config.base import ModelConfig, by_backbone, fitting_depth


class VaeConfig(ModelConfig):
    """Everything that decides what `python -m train vae` makes of a folder of pictures."""

    architecture: Literal["conv", "dense", "strided"] = Field(
        "conv", description="ours; or one hidden layer of 400 units; or strided convolutions of 32 and 64 channels"
    )
    width: int = Field(64, ge=4, le=512, description="channels inside the networks")
    depth: int = Field(
        default_factory=fitting_depth, ge=0, le=6, description="halvings on the way to the latent; by size"
    )
    units: int = Field(
        256, ge=0, le=4096, description="of a dense layer between the latent and either network; 0 for none"
    )
    latent: int = Field(32, ge=1, le=4096, description="dimensions of the latent distribution")

    likelihood: Literal["bernoulli", "gaussian"] = Field(
        "gaussian", description="of the pixels given the latent; gaussian learns one deviation for all"
    )
    beta: float = Field(1.0, ge=0, le=1000, description="weight of the KL divergence; 1 is the ELBO")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps in which beta rises from 0 to its value")
    free_bits: float = Field(0.0, ge=0, le=10, description="nats of KL a latent dimension that cost nothing more")
    score: Literal["residual", "elbo"] = Field(
        "residual", description="what a picture's score is: the head's pooled residual, or the negative ELBO"
    )
    elbo_samples: int = Field(
        0, ge=0, le=64, description="latents drawn once and kept for the ELBO's expectation; 0 for the mean latent"
    )

    epochs: int = Field(60, ge=1, le=10_000, description="passes over the fit pictures")
    learning_rate: float = Field(
        default_factory=by_backbone(features=3e-3, pixels=2e-3),
        gt=0,
        le=1,
        description="size of a training step, at its peak (AdamW's)",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "VaeConfig":
        problems = self.map_problems()
        if self.likelihood == "bernoulli" and self.backbone != "pixels":
            problems.append("likelihood: bernoulli is for pixels, which are 0 to 1; features take gaussian")
        if self.architecture == "strided" and self.backbone != "pixels":
            problems.append("architecture: strided works on pixels")
        if problems:
            raise ValueError("\n".join(problems))
        return self
