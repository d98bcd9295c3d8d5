"""Good pictures as a command asks for them: read, cleaned, without those that were left out, in their groups.

They are those of a folder, or the frames of stretches of videos, which become files in a folder of the run.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edged.media import frames
from edged.media.groups import check as check_rule
from edged.media.inputs import Input
from train.data import exclusion, groups, pictures
from train.data.cleaning import Denoiser
from train.data.pictures import PictureSet
from train.errors import OptionError
from train.progress import Track

FRAMES: Final = "frames"
"""The folder of a run that has frames of videos: a folder for each video, in it one for each stretch."""


@dataclass(frozen=True, slots=True)
class Good:
    """Where good pictures are.

    Attributes:
        folder: to be read, with its subfolders.
        called: what it will be called; another name than `folder` where the run is being written.
        groups: the rule of `--groups`, or what stands in for it; None for none.
        of_videos: whether they are frames.
    """

    folder: Path
    called: Path
    groups: str | None
    of_videos: bool = False


def find(options: argparse.Namespace, run: Path, track: Track) -> Good:
    """The folder that `--good` names, or one below `run` with the frames of the videos that it names.

    Raises:
        OptionError: it names more than one folder, or a folder and videos.
        TrainError: `--exclude` cannot be followed, whatever the pictures are.
        ConfigError: `--groups` cannot be followed, or a video cannot be read.
    """
    if options.groups is not None:
        check_rule(options.groups)
    if options.exclude is not None:
        exclusion.read_list(options.exclude)
    stretches = [frames.stretch_of(text) for text in options.good]
    videos = [stretch for stretch in stretches if stretch is not None]
    if not videos and len(stretches) == 1:
        folder = Path(options.good[0])
        return Good(folder, folder, options.groups)
    if len(videos) < len(stretches):
        other = options.good[stretches.index(None)]
        raise OptionError([f"--good {other} is no video; name one folder, or videos alone (VIDEO or VIDEO:START-END)"])
    with track("frames") as advance:
        frames.write(videos, run / FRAMES, fps=options.fps, advance=advance)
    return Good(run / FRAMES, options.out.absolute() / FRAMES, options.groups or "folder", of_videos=True)


def read(
    good: Good, options: argparse.Namespace, spec: Input, *, denoiser: Denoiser | None, cache: Path, track: Track
) -> PictureSet:
    """Reads them; `--exclude` and the rule of groups are theirs.

    Args:
        good: where they are.
        options: of the command line.
        spec: what the model takes.
        denoiser: cleans each; None where there is none.
        cache: a folder for pixels.
        track: shows how far it is.

    Raises:
        TrainError: pictures, list or groups cannot be used.
    """
    with track(spec.plural) as advance:
        found = pictures.read(good.folder, spec, store=cache / "good.npy", advance=advance)
    if denoiser is not None:
        with track("denoising") as advance:
            denoiser.clean(found.pixels[: len(found.pictures)], advance)
    if options.exclude is not None:
        found = exclusion.without_excluded(found, options.exclude, good.folder)
    if good.groups is not None:
        found = groups.grouped(found, good.groups, good.folder, alone=options.update is None)
    if good.folder != good.called:
        found = _renamed(found, str(good.folder.absolute()), str(good.called))
    return found


def _renamed(found: PictureSet, before: str, after: str) -> PictureSet:
    """The pictures under the names that they will have."""
    return replace(
        found,
        pictures=tuple(
            replace(one, path=one.path.replace(before, after, 1), group=one.group.replace(before, after, 1))
            for one in found.pictures
        ),
        # A camera that stands still gives the same frame again and again.
        warnings=tuple(one.replace(before, after) for one in found.warnings if not one.startswith("duplicates:")),
    )
