"""Sheets of pictures for the card: examples under their heat maps, reconstructions; every one with a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edged.media import overlays
from edged.results import printable

EXAMPLES: Final = "examples.png"
RECONSTRUCTIONS: Final = "reconstructions.png"
SAMPLES: Final = "samples.png"
WHERE: Final = "where.png"

GAIN: Final = 2
"""Differences of a picture from its reconstruction are shown this many times as large, around middle grey."""

_TILE: Final = 128  # the longer side of a picture on a sheet, px
_GAP: Final = 14
_TEXT: Final = 12  # px
_LINE: Final = 16
_COLUMNS: Final = 4
_GOOD, _BAD, _INK = (59, 117, 175), (196, 78, 82), (40, 40, 40)
_DARK: Final = 0.3  # of the light of what is not looked at
_MAP_LEVELS: Final = (0, 1, 2, 3, 4)
"""Of the colour scale, in what colour begins at."""


@dataclass(frozen=True, slots=True)
class Example:
    """A picture, or a signal, to show.

    Attributes:
        name: of the file.
        is_bad: whether it was given as bad.
        image: uint8 (H, W, C), as the model sees it; float32 (C, T) of a signal.
        anomaly_map: float32 (h, w); h is 1 for a signal.
        score: larger is worse.
        made: of a signal what the model makes of it, float32 (C, T).
        ignored: bool (h, w), where the map of a picture does not count.
    """

    name: str
    is_bad: bool
    image: NDArray[Any]
    anomaly_map: NDArray[np.float32]
    score: float
    made: NDArray[np.float32] | None = None
    ignored: NDArray[np.bool_] | None = None

    def caption(self, threshold: float) -> str:
        """What it was given as, its score, and how many times the threshold that is."""
        return f"{'bad' if self.is_bad else 'good'}, {self.score:.3g} = {self.score / threshold:.2f} x threshold"


def examples(
    path: Path, sections: Sequence[tuple[str, Sequence[Example]]], *, threshold: float, coloured_from: float
) -> None:
    """Each picture beside itself under its heat map, by sections, over the one colour scale of all.

    Args:
        path: the sheet to write.
        sections: title and pictures, four a row.
        threshold: that scores are compared with.
        coloured_from: level of the map at which colour begins.
    """
    blocks = [_colour_scale(coloured_from)]
    for title, shown in sections:
        cells = [
            _cell(
                np.asarray(
                    overlays.render(
                        example.image, example.anomaly_map, ignored=example.ignored, coloured_from=coloured_from
                    )
                ),
                [example.name, example.caption(threshold)],
                colour=_BAD if example.is_bad else _GOOD,
                across=2,
            )
            for example in shown
        ]
        blocks += [_heading(title), _arranged(cells, _COLUMNS)]
    _stacked(blocks).save(path, "PNG")


def reconstructions(
    path: Path, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]]
) -> None:
    """Pictures in rows, one column for each of what was made of them: uint8 (H, W, C) each."""
    cells = [
        _cell(_rgb(image), [column, name if index == 0 else ""], colour=_INK, across=1)
        for name, images in rows
        for index, (column, image) in enumerate(zip(columns, images, strict=True))
    ]
    _arranged(cells, len(columns) * max(1, 6 // len(columns))).save(path, "PNG")


def where(path: Path, picture: NDArray[np.uint8], box: tuple[int, int, int, int], mask: Image.Image | None) -> None:
    """A whole picture in which what is not looked at is dark.

    Args:
        path: of the PNG to write.
        picture: uint8 (H, W, C).
        box: left, top, right and bottom of what comes to the model, px of `picture`.
        mask: black where that is ignored, of any size; None where nothing is.
    """
    light = Image.new("L", (picture.shape[1], picture.shape[0]), 0)
    size = (box[2] - box[0], box[3] - box[1])
    light.paste(Image.new("L", size, 255) if mask is None else mask.resize(size, Image.Resampling.NEAREST), box[:2])
    share = np.where(np.asarray(light)[..., None] > 0, 1.0, _DARK)
    Image.fromarray((_rgb(picture) * share).round().astype(np.uint8)).save(path, "PNG")


def difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How image differs from other, `GAIN` times, around middle grey: uint8, same shape."""
    shown: NDArray[np.uint8] = np.clip(128 + GAIN * (image.astype(np.int16) - other), 0, 255).astype(np.uint8)
    return shown


def _cell(pixels: NDArray[np.uint8], lines: Sequence[str], *, colour: tuple[int, int, int], across: int) -> Image.Image:
    """A picture over its caption, in a frame; `across` pictures stand side by side in it."""
    image = Image.fromarray(pixels)
    single, factor = image.width // across, _TILE / max(image.width // across, image.height)
    size = (max(1, round(single * factor)) * across, max(1, round(image.height * factor)))
    image = image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)
    cell = Image.new("RGB", (_TILE * across + 4, size[1] + 8 + _LINE * len(lines)), "white")
    cell.paste(image, (2, 2))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((0, 0, size[0] + 3, size[1] + 3), outline=colour, width=2)
    for index, line in enumerate(lines):
        draw.text((1, size[1] + 6 + index * _LINE), _fitting(line, cell.width - 2), colour, _font(_TEXT))
    return cell


def _colour_scale(coloured_from: float) -> Image.Image:
    """What the colours of a heat map mean, drawn by what draws heat maps."""
    width, height = 400, 18
    level = np.linspace(_MAP_LEVELS[0], _MAP_LEVELS[-1], width, dtype=np.float32)
    grey = np.full((height, width, 3), 150, dtype=np.uint8)
    drawn = overlays.render(grey, np.broadcast_to(level, (height, width)).copy()).crop((width, 0, 2 * width, height))
    block = Image.new("RGB", (1130, height + 2 * _LINE + 16), "white")
    draw = ImageDraw.Draw(block)
    text = f"heat map, in map units, the same on every picture: up to {coloured_from:.3g} nothing is coloured"
    draw.text((_GAP, 6), text, _INK, _font(_TEXT))
    block.paste(drawn, (_GAP, 6 + _LINE + 4))
    for value in _MAP_LEVELS:
        x = _GAP + round(value / _MAP_LEVELS[-1] * (width - 1))
        draw.line((x, 6 + _LINE + 4, x, 6 + _LINE + height + 7), _INK)
        draw.text((x - 3, 6 + _LINE + height + 7), f"{value * coloured_from:.3g}", _INK, _font(_TEXT))
    return block


def _heading(text: str) -> Image.Image:
    block = Image.new("RGB", (round(_font(_TEXT + 3).getlength(text)) + 2 * _GAP, 30), "white")
    ImageDraw.Draw(block).text((_GAP, 8), text, _INK, _font(_TEXT + 3))
    return block


def _arranged(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Cells in rows of so many; all are of one size."""
    width, height = cells[0].width + _GAP, cells[0].height + _GAP
    rows = -(-len(cells) // columns)
    block = Image.new("RGB", (min(columns, len(cells)) * width + _GAP, rows * height + _GAP // 2), "white")
    for index, cell in enumerate(cells):
        block.paste(cell, (_GAP + index % columns * width, _GAP // 2 + index // columns * height))
    return block


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def _fitting(text: str, width: int) -> str:
    """The text without what cannot be shown, its middle left out where it is too long."""
    text, font = printable(text), _font(_TEXT)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(f"{text[: keep // 2]}…{text[-(keep // 2) :]}") > width:
        keep -= 1
    return f"{text[: keep // 2]}…{text[-(keep // 2) :]}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib brings one that has more than Latin letters.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
