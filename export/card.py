"""card.md: what a person should know of a bundle before relying on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edged.bundle import Manifest
from edged.calibration import Threshold
from edged.signals import SignalInput
from export import plots, signal_card
from export.metrics import Report

_KINDS: Final = {
    "ae": "An autoencoder that scores pictures by how badly it reconstructs them",
    "denoiser": "A denoiser that cleans pictures, and scores them by what it takes away",
    "vae": "A variational autoencoder that scores pictures and draws new ones",
}

_SHOWN: Final = {
    "image": "Each with its heat map",
    "signal": "Each with what was made of it, and red where its map is above 1.0",
}


def write(
    manifest: Manifest,
    *,
    threshold: Threshold,
    report: Report | None,
    parts: Mapping[str, int],
    source_px: tuple[float, float],
    warnings: Sequence[str],
) -> str:
    """The card, in Markdown.

    Args:
        manifest: of the bundle.
        threshold: that its calibration gives.
        report: on bad pictures, where there were some.
        parts: pictures by part.
        source_px: width and height in the files that one model pixel covers, medians.
        warnings: of training and export.
    """
    plural = manifest.input.plural
    blocks = [
        f"# {manifest.name}\n",
        f"{_KINDS[manifest.kind].replace('pictures', plural)} (`{manifest.backbone}`, {manifest.precision}). "
        f"Exported {manifest.created:%Y-%m-%d %H:%M} UTC.\n",
        *_denoiser(manifest),
        "## Data\n",
        _table(
            ("part", plural, "used for"),
            ("fit", parts["fit"], "weights, covariances"),
            ("statistics", parts["statistics"], "the best epoch, the level of the scores, the map's reference"),
            ("calibration", parts["calibration"], "the threshold, and nothing else"),
            ("bad", parts["bad"], "this card, and nothing else"),
        ),
        *[f"- warning: {_escape(warning)}" for warning in warnings],
        "\n## Input\n",
        _input(manifest, source_px),
        "## Threshold\n",
        f"An anomaly is a score above **{threshold.value:.4g}**, for a false-positive rate of "
        f"{threshold.target_fpr:g}, from {threshold.n} calibration {plural} by split conformal prediction. The promise "
        f"holds on average, for {plural} like those of calibration; calibrate again (`edged calibrate`) when the line, "
        "the camera or the light changes.\n",
        *([f"**{threshold.shortfall}.**\n"] if threshold.shortfall else []),
        f"![Scores]({plots.HISTOGRAM})\n",
        f"## On bad {plural}\n",
        *_bad(report, plural),
        "## Examples\n",
        f"![Examples]({plots.EXAMPLES})\n",
        f"{_SHOWN[manifest.input.kind]}, in fixed units: 1.0 is what good {plural} exceed at "
        f"{1 - manifest.map_reference.quantile:.1g} of the positions ({manifest.map_reference.n} {plural}).\n",
        "## Privacy and licences\n",
        f"`golden.npz` and `examples.png` hold a few of the {plural} that this model was trained or reported on. Who "
        "gets the bundle gets those.\n",
        *[f"- {what}: {_escape(licence)}" for what, licence in sorted(manifest.licences.items())],
    ]
    return "\n".join(blocks) + "\n"


def _input(manifest: Manifest, source_px: tuple[float, float]) -> str:
    taken = manifest.input
    if isinstance(taken, SignalInput):
        return signal_card.input_words(taken, manifest.outputs["anomaly_map"].shape[-1])
    return (
        f"{taken.width} x {taken.height} px, {'grey' if taken.channels == 1 else 'RGB'}, by {taken.resize!r} with a "
        f"{taken.filter} filter. One model pixel covers about {source_px[0]:.2g} x {source_px[1]:.2g} pixels of the "
        "pictures it was trained on: **a defect smaller than that may not be seen.**\n"
    )


def _denoiser(manifest: Manifest) -> list[str]:
    if manifest.denoiser is None:
        return []
    return [f"It was fitted and calibrated behind the denoiser `{manifest.denoiser.name}`, and runs behind no other.\n"]


def _bad(report: Report | None, plural: str) -> list[str]:
    if report is None:
        return ["None were given, so how many defects this model finds is not known.\n"]
    return [
        _table(
            ("measure", "value"),
            (f"AUROC, against the calibration {plural}", f"{report.auroc:.4f}"),
            ("recall at the threshold", f"{report.recall:.4f}"),
            (f"bad {plural}", report.n_bad),
        ),
        f"\n![ROC]({plots.ROC})\n",
    ]


def _table(header: tuple[Any, ...], *rows: tuple[Any, ...]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _escape(text: str) -> str:
    """What a file name could do to Markdown or HTML, undone."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#" else char for char in text if char.isprintable())
