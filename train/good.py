"""Good pictures as a command asks for them: read, cleaned, without those that were left out, in their groups."""

import argparse
from pathlib import Path

from edged.media.inputs import Input
from train.data import exclusion, groups, pictures
from train.data.cleaning import Denoiser
from train.data.pictures import PictureSet
from train.progress import Track


def read(
    options: argparse.Namespace, spec: Input, *, denoiser: Denoiser | None, cache: Path, track: Track
) -> PictureSet:
    """Reads what `--good` names; `--exclude` and `--groups` are its.

    Args:
        options: of the command line.
        spec: what the model takes.
        denoiser: cleans each; None where there is none.
        cache: a folder for pixels.
        track: shows how far it is.

    Raises:
        TrainError: pictures, list or groups cannot be used.
    """
    with track(spec.plural) as advance:
        found = pictures.read(options.good, spec, store=cache / "good.npy", advance=advance)
    if denoiser is not None:
        with track("denoising") as advance:
            denoiser.clean(found.pixels[: len(found.pictures)], advance)
    if options.exclude is not None:
        found = exclusion.without_excluded(found, options.exclude, options.good)
    if options.groups is not None:
        found = groups.grouped(found, options.groups, options.good)
    return found
