"""What a source shows of its pictures, from its table to a score. `tests/export/test_looking.py` has real models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edged.errors import ConfigError
from edged.media.imaging import Limits, decode
from edged.models import registry
from edged.models.scorer import Scorer
from edged.results import Frame, Result
from edged.settings import ModelTable
from edged.sources.folder.table import FolderTable
from tests.conftest import TINY


def load(bundle: Path, **keys: Any) -> Scorer:
    source = FolderTable(name="line1", type="folder", path=Path("/srv"), model="tiny", **keys)
    return registry.load({"tiny": ModelTable(path=bundle)}, [source]).of_sources["line1"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The tiny one, with what an export of today notes."""
    copy = tmp_path / "tiny"
    shutil.copytree(TINY, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["input"]["source"] = [64, 64]
    manifest["map_reference"]["top"] = 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def result(scorer: Scorer, pixels: np.ndarray, path: Path) -> Result:
    Image.fromarray(pixels).save(path)
    decoded = decode(path.read_bytes(), scorer.view.input, Limits())
    found = scorer.score(Frame("line1", "id", 0.0, decoded.pixels))
    assert isinstance(found, Result)
    return found


def test_a_source_has_a_part_and_a_mask_of_its_own(bundle: Path, tmp_path: Path) -> None:
    pixels = np.full((100, 200), 128, np.uint8)
    pixels[10:40, 110:150] = 255
    mask = np.full((50, 100), 255, np.uint8)
    mask[:25, 50:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    file = tmp_path / "picture.png"
    assert result(load(bundle), pixels, file).is_anomaly
    assert not result(load(bundle, roi=(0, 0, 100, 100)), pixels, file).is_anomaly
    masked = load(bundle, mask=tmp_path / "mask.png")
    found = result(masked, pixels, file)
    assert not found.is_anomaly
    assert found.ignored is not None
    assert found.ignored[:4, 4:].all()
    assert found.ignored.sum() == 16
    # The mask is of the whole picture: in the part from 100 on, its right half above is ignored all over.
    with pytest.raises(ConfigError, match=r"100x50 px have nothing of the part .*a mask is as large as the pictures"):
        load(bundle, roi=(100, 0, 100, 100), mask=tmp_path / "mask.png")
    Image.fromarray(mask).resize((200, 100)).save(tmp_path / "large.png")
    beside = result(load(bundle, roi=(100, 0, 100, 100), mask=tmp_path / "large.png"), pixels, file)
    assert not beside.is_anomaly
    assert beside.ignored is not None
    assert beside.ignored[:4].all()


def test_what_cannot_be_looked_at(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"none")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    for path, words in (("text.png", "not a picture"), ("black.png", "black everywhere"), ("none.png", "No such file")):
        with pytest.raises(ConfigError, match=f"sources.line1.mask: .*{words}"):
            load(bundle, mask=tmp_path / path)
    with pytest.raises(ConfigError, match=r"sources.line1.mask: .* or it does not say how; export it again"):
        load(TINY, mask=tmp_path / "black.png")


def test_shapes_are_compared_with_those_of_training(bundle: Path) -> None:
    plain, part = load(bundle).view, load(bundle, roi=(10, 10, 60, 60)).view
    assert plain.other_shape(64, 64) is None
    assert "another shape" in str(plain.other_shape(128, 64))
    assert "another scale" in str(plain.other_shape(128, 128))
    assert part.other_shape(640, 480) is None
    assert "another shape" in str(load(bundle, roi=(10, 10, 60, 30)).view.other_shape(640, 480))
    assert load(TINY).view.other_shape(1, 999) is None
    assert replace(plain, roi=None) == plain
