"""What there is to say and to show of a loaded model: facts, thresholds, its card and pictures, samples of a VAE."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from markupsafe import Markup
from pydantic import Field

from edged.models import rates
from edged.models.sampling import DECODER, Sampler, grid
from edged.models.scorer import Scorer
from edged.web.status import ModelStatus, Part

if TYPE_CHECKING:
    from markdown_it.token import Token

CARD: Final = "card.md"
SEEDS: Final = 4
"""Sheets of samples that there are: each is drawn once."""
SAMPLES: Final = 16
_REMEMBERED: Final = 8


class Choice(Part):
    """A false-positive rate that could be asked for, by the calibration in force."""

    target_fpr: float
    threshold: float
    flagged: int = Field(description="Good pictures of the calibration above it.")
    low: float = Field(description="Lower end of the 95 % interval of their share, 0 to 1.")
    high: float = Field(description="Upper end of it.")
    found: int | None = Field(
        description="Bad pictures that were given at export above it; null where there were none."
    )
    in_force: bool
    line: str = Field(description="For [models.NAME] of edged.toml.")


class GoldenTest(Part):
    """Whether this device computes what torch did at export; a model for which it does not is not loaded."""

    pictures: int
    worst: float = Field(description="The largest difference from torch, as a share of what is allowed.")


class ModelDetail(ModelStatus):
    """All there is to say of a loaded model."""

    backbone: str
    made_at: datetime
    input: str
    golden_test: GoldenTest
    confirmed: int = Field(description="Calibration pictures that are false alarms which people confirmed.")
    bad_pictures: int = Field(description="That were given at export.")
    choices: list[Choice]
    notes: list[str] = Field(description="Which choices have the same threshold, and why, in words.")
    has_card: bool
    pictures: list[str] = Field(description="Names of the plots and pictures that the bundle holds.")
    has_samples: bool = Field(description="Whether it can draw pictures: a VAE on pixels can.")


def detail(status: ModelStatus, scorer: Scorer) -> ModelDetail:
    """A model in full."""
    manifest, threshold = scorer.bundle.manifest, scorer.threshold
    asked = scorer.bundle.calibration.target_fpr if threshold.target_fpr is None else threshold.target_fpr
    choices = rates.choices(scorer.calibration, manifest.bad_scores, asked)
    return ModelDetail(
        **status.model_dump(),
        backbone=manifest.backbone,
        made_at=manifest.created,
        input=manifest.input.description,
        golden_test=GoldenTest(pictures=scorer.golden.n, worst=scorer.golden.worst),
        confirmed=threshold.confirmed,
        bad_pictures=len(manifest.bad_scores),
        choices=[
            Choice(
                target_fpr=one.target_fpr,
                threshold=one.threshold.value,
                flagged=one.flagged,
                low=one.within.low,
                high=one.within.high,
                found=one.found,
                in_force=one.in_force and threshold.target_fpr is not None,
                line=one.line,
            )
            for one in choices
        ],
        notes=rates.told_apart(choices, manifest.input.plural),
        has_card=CARD in manifest.files,
        pictures=sorted(name for name in manifest.files if name.endswith(".png")),
        has_samples=DECODER in manifest.files,
    )


def card(scorer: Scorer) -> str | None:
    """The card, in Markdown; None where the bundle has none.

    Raises:
        BundleError: it is damaged.
    """
    if CARD not in scorer.bundle.manifest.files:
        return None
    return scorer.bundle.read(CARD).decode("utf-8", "replace")


def picture(scorer: Scorer, name: str) -> bytes | None:
    """A picture that the bundle holds, as it stands on the disk; None where it holds none of that name.

    Raises:
        BundleError: it is damaged.
    """
    if name not in scorer.bundle.manifest.files or not name.endswith(".png"):
        return None
    return scorer.bundle.read(name)


def card_html(text: str, pictures: Sequence[str], url: Callable[[str], str]) -> Markup:
    """The card for the page: no markup of its own, headings below those of the page, pictures of the bundle alone.

    Args:
        text: Markdown.
        pictures: names of files that it may show.
        url: where one of them is.
    """
    from markdown_it import MarkdownIt  # few ask for it, and a daemon is to be small

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        if token.type == "table_open":
            token.attrSet("class", "wide")
        for child in token.children or []:
            _show(child, pictures, url)
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704 -- made of escaped text


def _show(token: "Token", pictures: Sequence[str], url: Callable[[str], str]) -> None:
    """Has an image come from where the bundle's pictures are, or be its words; a link leads nowhere else."""
    if token.type == "image":
        name = str(token.attrs.get("src", ""))
        if name in pictures:
            token.attrSet("src", url(name))
            token.attrSet("loading", "lazy")
        else:
            token.type = "text"
    elif token.type in {"link_open", "link_close"}:
        token.tag, token.attrs = "span", {}


class Samples:
    """Sheets of pictures that VAEs draw: each is drawn once, when somebody asks, and remembered."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._drawn: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def sheet(self, scorer: Scorer, seed: int) -> bytes:
        """A sheet of `SAMPLES` pictures, as PNG.

        Raises:
            BundleError: the model cannot draw.
        """
        key = (scorer.bundle.model_sha256, seed)
        with self._mutex:  # one at a time
            if key not in self._drawn:
                device, threads = scorer.asked
                drawn = io.BytesIO()
                sampler = Sampler.load(scorer, device=device, threads=threads)
                grid(sampler.prior(SAMPLES, seed)).save(drawn, "PNG")
                self._drawn[key] = drawn.getvalue()
            self._drawn.move_to_end(key)
            while len(self._drawn) > _REMEMBERED:
                self._drawn.popitem(last=False)
            return self._drawn[key]


def picture_url(prefix: str, model: str, name: str) -> str:
    """Where a picture of a bundle is served."""
    return f"{prefix}/models/{quote(model, safe='')}/pictures/{quote(name, safe='')}"
