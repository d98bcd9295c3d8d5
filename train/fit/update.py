"""More good pictures for a detector that is trained: its autoencoder stays, its head is fitted anew on all of them.

Features of the pictures before are kept in the run, so that these need not be decoded or seen again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from train.config.base import EFFICIENTNET
from train.config.kinds import AutoencoderConfig
from train.data import stores
from train.data.augmentation import augmentation, with_copies
from train.data.groups import members_of_groups
from train.data.pictures import Part, Picture, PictureSet, parts_of
from train.errors import TrainError
from train.fit.ae import fit_head_of
from train.fit.trained import Trained
from train.nets.detector import Detector, make_detector
from train.nets.features import Features, of_pictures
from train.nets.head import Head
from train.progress import Track
from train.run import FEATURES, Run

_CPU: Final = torch.device("cpu")


def check(run: Run) -> AutoencoderConfig:
    """The configuration of a run that can take more pictures.

    Raises:
        TrainError: it cannot.
    """
    config = run.config
    if not isinstance(config, AutoencoderConfig) or config.backbone != EFFICIENTNET or run.facts["kind"] != "ae":
        raise TrainError(
            f"{run.path}: only autoencoders on features can be updated; what this one has learnt of pixels is all in "
            "its network: train again, on all pictures"
        )
    if not (run.path / FEATURES).is_file():
        raise TrainError(f"{run.path}: has no {FEATURES}, in which features are kept; train again, on all pictures")
    return config


def new_pictures(run: Run, found: PictureSet) -> PictureSet:
    """What of these good pictures the run does not have yet, in the parts that they go to.

    Pictures stay in the part that they were in. Of the new ones as many calibrate as make up what all of them together
    should have; then as many go to statistics; the rest fits.

    Raises:
        TrainError: there are none.
    """
    known = {picture.content: picture for picture in run.pictures}
    bad = [picture.path for picture in found.pictures if (one := known.get(picture.content)) and one.part == "bad"]
    new = [picture for picture in found.pictures if picture.content not in known]
    warnings = list(found.warnings)
    if bad:
        warnings.append(f"good-and-bad: {len(bad)} dropped, as among the bad pictures of {run.path}: {bad[0]}")
    if repeated := len(found.pictures) - len(new) - len(bad):
        warnings.append(f"duplicates: {repeated} dropped, as in {run.path} already")
    if not new:
        which = f", and {len(bad)} of them as bad ones, such as {bad[0]}" if bad else ""
        raise TrainError(f"{run.path}: has all of these pictures already{which}; nothing was written")
    if run.config.cross:
        return replace(found, pictures=tuple(replace(one, part="fit") for one in new), warnings=tuple(warnings))
    good = {part: len(run.part(part)) for part in ("fit", "statistics", "calibration")}
    calibration, statistics = parts_of(
        sum(good.values()) + len(new),
        target_fpr=run.config.target_fpr,
        calibration_share=run.config.calibration_share,
        statistics_share=run.config.statistics_share,
    )
    wanted: list[tuple[Part, int]] = [
        ("calibration", max(0, calibration - good["calibration"])),
        ("statistics", max(0, statistics - good["statistics"])),
    ]
    return replace(found, pictures=_shared_out(new, wanted, run.config.seed), warnings=tuple(warnings))


def update(
    run: Run, config: AutoencoderConfig, new: PictureSet, *, cache: Path, track: Track, device: torch.device = _CPU
) -> tuple[Trained[Detector], tuple[Picture, ...], AutoencoderConfig]:
    """Fits the head of a run on its pictures and on new ones.

    Returns:
        What was fitted; the good pictures, those of each part as the run has them and then the new ones; and the
        configuration with the regions that so many pictures allow, where these follow them.
    """
    before, of_part = run.detector, {part: new.part(part) for part in ("fit", "statistics", "calibration")}
    assert isinstance(before, Detector)
    pictures: tuple[Picture, ...] = tuple(
        picture for part in ("fit", "statistics", "calibration") for picture in (*run.part(part), *of_part[part])
    )
    counts = {part: [len(run.part(part)), len(of_part[part])] for part in ("fit", "statistics")}
    if run.facts.get("regions_follow"):
        config = config.model_copy(update={"regions": 0}).for_pictures(sum(map(sum, counts.values())))
    old = np.load(run.path / FEATURES, mmap_mode="r", allow_pickle=False)
    change = augmentation(config, new)
    versions = 2 if change else 1
    if len(old) != versions * sum(n for n, _ in counts.values()):
        raise TrainError(f"{run.path}: {FEATURES} is not of its pictures; train again, on all pictures")
    added = _features(before, new, config=config, cache=cache, track=track, device=device)
    values = _joined(old, added, list(counts.values()), versions=versions, store=cache / "joined.npy")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        detector = make_detector(config).eval()
    if before.detail is None:
        detector.detail = None
    for name in ("extractor", "autoencoder", "detail"):
        if (module := getattr(detector, name)) is not None:
            module.load_state_dict(getattr(before, name).state_dict())
    detector.center.copy_(before.center)
    detector.scale.copy_(before.scale)
    assert isinstance(detector.head, Head)
    assert isinstance(before.head, Head)
    if detector.head.kept is not None and before.head.kept is not None:
        detector.head.kept.copy_(before.head.kept)

    fit, statistics = (sum(counts[part]) for part in ("fit", "statistics"))
    rows = np.arange(len(values))
    originals, copies = rows[: fit + statistics], rows[fit + statistics :]
    report, out_of_fold = fit_head_of(
        detector,
        Features(values, before.center, before.scale),
        fit=np.concatenate([originals[:fit], copies[:fit]]),
        statistics=originals[fit:],
        copies=copies[fit:],
        groups=members_of_groups([picture for picture in pictures if picture.part == "fit"]),
        config=config,
        track=track,
    )
    detector.requires_grad_(False)
    trained = Trained(detector, run.facts["epoch"], run.facts["loss_statistics"], report, out_of_fold, values)
    return trained, pictures, config


def _features(
    detector: Detector, new: PictureSet, *, config: AutoencoderConfig, cache: Path, track: Track, device: torch.device
) -> NDArray[np.floating]:
    """Of the new fit and statistics pictures, and then of their copies, in the order that runs keep them in."""
    used = replace(new, pictures=tuple(new.part("fit") + new.part("statistics")))
    if change := augmentation(config, used):
        with track("copies") as advance:
            used = with_copies(used, change, seed=config.seed, store=cache / "copies.npy", advance=advance)
    found = of_pictures(detector.extractor, used, cache=cache, track=track, device=device)
    return found.values[[picture.row for picture in used.pictures]]


def _joined(
    old: NDArray[np.floating],
    new: NDArray[np.floating],
    counts: Sequence[Sequence[int]],
    *,
    versions: int,
    store: Path,
) -> NDArray[np.floating]:
    """Features of old and new pictures by turns, part by part, and the same of their copies.

    Args:
        old: float16 (versions · n, C, h, w), the parts one after the other.
        new: likewise.
        counts: of each part, how many are old and how many new.
        versions: 1, or 2 where there are copies.
        store: a file for them, made anew.
    """
    values = stores.array(store, np.float16, (len(old) + len(new), *old.shape[1:]))
    at, rest = 0, [old, new]
    for part in [*counts] * versions:
        for index, n in enumerate(part):
            values[at : at + n] = rest[index][:n]
            rest[index], at = rest[index][n:], at + n
    return values


def _shared_out(new: Sequence[Picture], wanted: Sequence[tuple[Part, int]], seed: int) -> tuple[Picture, ...]:
    """New pictures in parts by the hash of what they show, as `pictures.split` does; groups stay together."""
    groups: dict[str, list[Picture]] = {}
    for picture in new:
        groups.setdefault(picture.group or picture.content, []).append(picture)
    left, shared = [*wanted], []
    for name in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()):
        while left and left[0][1] <= 0:
            left.pop(0)
        part: Part = left[0][0] if left else "fit"
        if left:
            left[0] = (part, left[0][1] - len(groups[name]))
        shared += [replace(picture, part=part) for picture in groups[name]]
    return tuple(shared)
