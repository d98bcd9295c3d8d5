"""card.md: what a person should know of a bundle before relying on it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from edged.media.inputs import Input
from edged.media.signals import SignalInput
from edged.models import intervals
from edged.models.calibration import Threshold
from edged.models.manifest import Manifest
from edged.models.rates import RateChoice, told_apart
from export.report import plots, sheets, signal_card, trust
from export.report.metrics import Report
from export.report.synthetic import SCRATCH, SHARE, Synthetic
from train import suspects
from train.config.kinds import Config
from train.data.shapes import pixels_covered
from train.fit.outliers import LIMIT, Outlier

_KINDS: Final = {
    "ae": "An autoencoder that scores pictures by how badly it reconstructs them",
    "denoiser": "A denoiser that cleans pictures, and scores them by what it takes away",
    "vae": "A variational autoencoder that scores pictures and draws new ones",
}

_SHOWN: Final = {
    "image": "Each picture beside itself under its heat map",
    "signal": "Each signal, up to four channels of it, in black, what the model makes of it in blue, and red where its "
    "map is above 1.0",
}
_COLOUR: Final = (
    "Colour begins at the level at which so many positions as a score is the mean of make an anomaly: every anomaly is "
    "coloured. "
)
_POSITION: Final = {"image": "pixel", "signal": "position"}
_CHANGES: Final = {"image": "the line, the camera or the light", "signal": "the line or the sensor"}


def write(
    manifest: Manifest,
    *,
    threshold: Threshold,
    choices: Sequence[RateChoice],
    report: Report | None,
    outliers: Sequence[Outlier],
    raised_from: float | None,
    synthetic: Synthetic | None,
    parts: Mapping[str, int],
    source_px: tuple[float, float],
    pictures: Collection[str],
    epochs: tuple[int, int, int],
    psnr: tuple[float, float] | None,
    warnings: Sequence[str],
) -> str:
    """The card, in Markdown.

    Args:
        manifest: of the bundle.
        threshold: that its calibration gives.
        choices: what other target rates would give.
        report: on bad pictures, where there were some.
        outliers: among the good pictures.
        raised_from: what the threshold would be without them, where it rests on one.
        synthetic: what is found of defects that were drawn; None of signals.
        parts: pictures by part.
        source_px: width and height of pictures in their files, turned upright, medians.
        pictures: names of the picture files that stand beside the card.
        epochs: the one that was kept, how many were trained, how many were allowed.
        psnr: of a denoiser's examples before and after, dB.
        warnings: of training and export.
    """
    kind, plural = manifest.input.kind, manifest.input.plural
    blocks = [
        f"# {manifest.name}\n",
        f"{_KINDS[manifest.kind].replace('pictures', plural)} (`{manifest.backbone}`, {manifest.precision}). "
        f"Exported {manifest.created:%Y-%m-%d %H:%M} UTC.\n",
        *_denoiser(manifest),
        *_updated(manifest),
        *([] if report is None else [f"**{trust.found(report, manifest.input)}**\n"]),
        "## How far to trust it\n",
        *[
            f"- {sentence}"
            for sentence in trust.sentences(
                threshold,
                report,
                outliers,
                parts,
                manifest.input,
                raised_from=raised_from,
                groups=manifest.provenance.get("groups"),
            )
        ],
        *[f"- warning: {_escape(warning)}" for warning in warnings],
        "\n## Data\n",
        _table(("part", plural, "used for"), *_parts(parts)),
        _outliers(manifest.input, cross=not parts["calibration"]),
        "## Input\n",
        _input(manifest, source_px),
        "## Threshold\n",
        f"An anomaly is a score above **{threshold.value:.4g}**, for a false-positive rate of "
        f"{threshold.target_fpr:g}, from {threshold.n} {'calibration' if parts['calibration'] else 'good'} {plural} by "
        f"{'split' if parts['calibration'] else 'cross-'}{' ' if parts['calibration'] else ''}"
        f"conformal prediction. Calibrate "
        f"again (`edged calibrate`) when {_CHANGES[kind]} changes.\n",
        f"**This card and its charts describe the calibration of {manifest.created:%Y-%m-%d %H:%M} UTC, made at "
        "export.** `edged calibrate` changes the threshold, not this card; `edged inspect` says which calibration is "
        "in force, and whether it is this one.\n",
        f"![Scores]({plots.HISTOGRAM})\n",
        "## What more recall costs\n",
        *_rates(choices, manifest.input),
        f"## On bad {plural}\n",
        *_bad(report, threshold, manifest.input),
        *([] if synthetic is None else _synthetic(synthetic)),
        "## Examples\n",
        f"![Examples]({sheets.EXAMPLES})\n",
        f"{_SHOWN[kind]}, with its name, its score, and how many times the threshold that is; above 1 it is flagged. "
        f"{_COLOUR if manifest.map_reference.top else ''} "
        f"Maps are in fixed units: 1.0 is what good {plural} exceed at about "
        f"{_one_in(1 - manifest.map_reference.quantile, _POSITION[kind])} ({manifest.map_reference.n} {plural}).\n",
        *_made(pictures, psnr),
        *_learning(pictures, epochs, plural, cross=not parts["calibration"]),
        "## Privacy and licences\n",
        f"{_listed(pictures)} hold some of the {plural} that this model was trained or reported on. Who gets the "
        "bundle gets those.\n",
        *[f"- {what}: {_escape(licence)}" for what, licence in sorted(manifest.licences.items())],
    ]
    return "\n".join(blocks) + "\n"


def loss_of(kind: str, config: Config) -> str:
    """What the loss of a kind is, for an axis."""
    if kind == "vae":
        return "loss: negative ELBO, nats a picture"
    named = getattr(config, "loss", None)
    if kind == "denoiser" and named == "psnr":
        return "loss: half the logarithm of the squared error"
    return "loss: mean absolute error" if named == "mae" else "loss: mean squared error"


def _parts(parts: Mapping[str, int]) -> list[tuple[str, int, str]]:
    bad = ("bad", parts["bad"], "this card, and nothing else")
    if not parts["calibration"]:
        return [("fit", parts["fit"], "weights, covariances; the threshold, out of fold"), bad]
    return [
        ("fit", parts["fit"], "weights, covariances"),
        ("statistics", parts["statistics"], "the best epoch, the level, the map's reference; then covariances"),
        ("calibration", parts["calibration"], "the threshold, and nothing else"),
        bad,
    ]


def _outliers(taken: Input, *, cross: bool) -> str:
    judged = (
        "All are judged together, by what each scores out of fold."
        if cross
        else "The fit and statistics parts are judged together, for what was learnt from scores lower; calibration by "
        "itself."
    )
    return (
        f"A good {taken.singular} is called an outlier when its modified z-score is above {LIMIT:g}: its distance from "
        "the median score, upwards, in robust deviations (0.6745 (score - median) / MAD; Iglewicz and Hoaglin, 1993). "
        f"{judged} `{suspects.PAGE}` shows the {taken.plural} with the highest scores, and what the threshold would be "
        "without each.\n"
    )


def _input(manifest: Manifest, source_px: tuple[float, float]) -> str:
    taken = manifest.input
    if isinstance(taken, SignalInput):
        return signal_card.input_words(taken, int(manifest.outputs["anomaly_map"].shape[-1]))
    across, down = pixels_covered(taken, source_px)
    looks_at_a_part = taken.roi is not None or manifest.mask is not None
    looked_at = "" if taken.roi is None else ", of the {2} x {3} px at {0},{1} of the picture".format(*taken.roi)
    return (
        f"{taken.width} x {taken.height} px, {'grey' if taken.channels == 1 else 'RGB'}, by {taken.resize!r} with a "
        f"{taken.filter} filter{looked_at}. One model pixel covers about {across:.2g} x {down:.2g} pixels of the "
        "pictures it was trained on: **a defect smaller than that may not be seen.**\n"
        + (f"\n![Where it looks]({sheets.WHERE})\n\nWhat is dark here is not looked at.\n" if looks_at_a_part else "")
    )


def _denoiser(manifest: Manifest) -> list[str]:
    if manifest.denoiser is None:
        return []
    return [f"It was fitted and calibrated behind the denoiser `{manifest.denoiser.name}`, and runs behind no other.\n"]


def _updated(manifest: Manifest) -> list[str]:
    came_from = manifest.provenance.get("updated_from")
    if came_from is None:
        return []
    return [
        f"It is an update of the run `{_escape(came_from['run'])}` of {came_from['created']}: {came_from['added']} "
        f"good pictures were added to its {came_from['pictures']}. Its autoencoder is that of the run; means, "
        "covariances and the threshold are of all of them.\n"
    ]


def _rates(choices: Sequence[RateChoice], taken: Input) -> list[str]:
    n = choices[0].threshold.n
    rows = []
    for choice in choices:
        flagged = f"{choice.flagged} of {n} ({trust.percent(choice.within.low)} to {trust.percent(choice.within.high)})"
        found = ("none were given",) if choice.found is None else (f"{choice.found}",)
        rate = f"{trust.percent(choice.target_fpr)}{', in force' if choice.in_force else ''}"
        rows.append((rate, f"{choice.threshold.value:.4g}", flagged, *found, f"`{choice.line}`"))
    header = (
        "target rate",
        "threshold",
        f"good {taken.plural} above it",
        f"bad {taken.plural} found",
        "in `edged.toml`",
    )
    return [
        _table(header, *rows),
        "\n"
        + " ".join(f"{sentence}." for sentence in told_apart(choices, taken.plural))
        + f" Behind the good {taken.plural} that calibrate and lie above a threshold stands the 95 % interval of that "
        "share (Clopper and Pearson). The line goes below `[models.NAME]`; nothing needs to be exported again.\n",
        f"![Thresholds]({plots.THRESHOLDS})\n",
    ]


def _bad(report: Report | None, threshold: Threshold, taken: Input) -> list[str]:
    if report is None:
        return ["There were none, so how many defects this model finds is not known.\n"]
    rate = intervals.true_rate(threshold)
    area, recall = report.auroc_interval, report.recall_interval
    precision = trust.percent(trust.precision_on_a_line(report, rate.mean))
    return [
        _table(
            ("measure", "value", "95 % interval", "what it is"),
            (
                "AUROC",
                f"{report.auroc:.4f}",
                f"{area.low:.3f} to {area.high:.3f}",
                f"how often a bad {taken.singular} scores above a good calibration {taken.singular}: 0.5 is a coin, "
                "1 is perfect",
            ),
            (
                "recall",
                f"{report.recall:.4f}",
                f"{recall.low:.3f} to {recall.high:.3f}",
                f"share of the bad {taken.plural} flagged: {report.n_found} of {report.n_bad}",
            ),
            (
                "false-positive rate",
                f"{rate.mean:.4f}",
                f"{rate.interval.low:.4f} to {rate.interval.high:.4f}",
                f"share of good parts flagged, from {threshold.n} calibration {taken.plural}",
            ),
            (
                "average precision",
                f"{report.average_precision:.4f}",
                "",
                f"area under precision and recall, at the share of bad {taken.plural} given here",
            ),
        ),
        f"\n![ROC, precision and recall]({plots.ROC})\n",
        f"Precision depends on how many parts are bad. On a line where 1 part in 100 is, about {precision} of what is "
        "flagged would be bad.\n",
        "Intervals: AUROC by Newcombe (2006), method 5; recall by Clopper and Pearson; the false-positive rate by the "
        "Beta distribution of split conformal prediction (Vovk, 2012). They say how much chance is in the figures, not "
        f"how much your line differs from these {taken.plural}.\n",
    ]


def _synthetic(found: Synthetic) -> list[str]:
    def size(px: float | None, longer: int = 1) -> str:
        if px is None:
            return "none that was tried"
        return f"{px:g} px" if longer == 1 else f"{px:g} x {px * longer:g} px"

    rows = [
        (f"{100 * one.contrast:g} % of white", size(one.dot_px), size(one.scratch_px, SCRATCH))
        for one in found.smallest
    ]
    return [
        "## Synthetic defects: a first estimate\n",
        f"Drawn into {found.n} of the good pictures that are not flagged, at places of chance, and scored: the "
        f"smallest that are found in {100 * SHARE:g} % of them at the threshold, in pixels of the files. **These are "
        "drawings, not defects of your line**: real ones have other shapes and edges, and how many are found only bad "
        "pictures can tell.\n",
        _table(("darker or brighter by", "dot, diameter", "scratch, width x length"), *rows),
        f"A piece of another picture, pasted in, is found in {found.pasted} of {found.n}, and another picture that "
        f"shines through in {found.blended} of {found.n}.\n",
    ]


def _made(pictures: Collection[str], psnr: tuple[float, float] | None) -> list[str]:
    blocks = []
    if sheets.RECONSTRUCTIONS in pictures:
        blocks += ["## Reconstructions\n", f"![Reconstructions]({sheets.RECONSTRUCTIONS})\n"]
        if psnr is not None:
            blocks.append(
                "Calibration pictures, corrupted as in training, what the denoiser makes of them, and the originals. "
                f"PSNR of these: {psnr[0]:.1f} dB before, {psnr[1]:.1f} dB after; higher is better.\n"
            )
        else:
            blocks.append(
                "What the model sees, what it makes of it, and the difference: middle grey is none, "
                f"and it is drawn {sheets.GAIN} times as large as it is. What good parts have should be gone from the "
                "difference; what is strange should stay.\n"
            )
    if sheets.SAMPLES in pictures:
        blocks += [
            "## Samples\n",
            f"![Samples]({sheets.SAMPLES})\n",
            "New pictures that the model draws by itself (`edged sample`). They should look like good parts; where "
            "they do not, it has not learnt what good parts look like.\n",
        ]
    return blocks


def _learning(pictures: Collection[str], epochs: tuple[int, int, int], plural: str, *, cross: bool) -> list[str]:
    if plots.LEARNING not in pictures:
        return []
    best, trained, allowed = epochs
    if cross:
        return [
            "## Learning curves\n",
            f"![Learning curves]({plots.LEARNING})\n",
            f"All {trained} epochs were trained, on all good {plural}: none are held out, and the last epoch is kept. "
            "A loss that is still falling fast at the end asks for more `epochs`.\n",
        ]
    verdict = ""
    if best == trained == allowed:
        verdict = " That was the last one allowed, and the loss may still have been falling: try more `epochs`."
    return [
        "## Learning curves\n",
        f"![Learning curves]({plots.LEARNING})\n",
        f"Epoch {best} of {trained} was kept, the one with the lowest loss on the held-out (statistics) {plural}."
        f"{verdict} Held-out {plural} far above fit {plural} mean that more good {plural} would help.\n",
    ]


def _listed(pictures: Collection[str]) -> str:
    drawn = {sheets.EXAMPLES, sheets.RECONSTRUCTIONS, sheets.WHERE} & set(pictures)
    names = ["golden.npz", *sorted(drawn), suspects.PAGE]
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"


def _one_in(share: float, position: str) -> str:
    return f"one {position} of the map in {round(1 / share):,}"


def _table(header: tuple[Any, ...], *rows: tuple[Any, ...]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _escape(text: str) -> str:
    """What a file name could do to Markdown or HTML, undone."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#" else char for char in text if char.isprintable())
