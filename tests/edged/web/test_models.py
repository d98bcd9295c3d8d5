import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from edged.journal import labels, scores
from edged.journal.journal import Entry, Journal
from edged.models import bundle as bundles
from edged.models import registry
from edged.models.manifest import FileEntry
from edged.web.app import make_app
from edged.web.models import card_html
from edged.web.site import Site
from tests import tiny_kinds
from tests.conftest import TINY
from tests.edged.making import encode, quarantined, record
from tests.edged.web.asking import ask
from tests.edged.web.making import status_of

CARD = """# tiny

**Trust** it <script>alert(1)</script> [elsewhere](https://evil.example) ![Scores](scores.png)
![other](https://evil.example/x.png) ![up](../../etc/passwd)

| rate | threshold |
| --- | --- |
| 0.01 | 0.5 |
"""


def with_files(bundle: Path, **contents: bytes) -> Path:
    """The bundle with more files in it; in names, _ stands for the dot."""
    manifest = bundles.load(bundle).manifest
    named = {name.replace("_", "."): content for name, content in contents.items()}
    for name, content in named.items():
        (bundle / name).write_bytes(content)
    files = manifest.files | {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in named.items()
    }
    (bundle / "manifest.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    return bundle


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def make(folder: Path, *paths: Path) -> Starlette:
    scorers = {path.name: registry.load_one(path, "cpu") for path in paths or [TINY]}
    told = status_of(scorers)
    site = Site(folder, lambda: told, lambda _: None, scorers=lambda: scorers)
    return make_app(CollectorRegistry(), list, site=site)


def of_tiny(**changes: Any) -> Any:
    sha256 = bundles.load(TINY).model_sha256
    return record(**{"model": "tiny", "model_sha256": sha256, "scored_at": time.time() - 3600, **changes})


# Another threshold.


def test_what_another_threshold_would_have_flagged(journal: Journal, tmp_path: Path) -> None:
    week = [of_tiny(score=0.1 * number) for number in range(1, 11)]  # 0.1 to 1.0; 0.5 is in force
    other = [of_tiny(score=9.0, model_sha256="ef" * 32), of_tiny(score=9.0, scored_at=time.time() - 8 * 86_400)]
    elsewhere = [of_tiny(score=9.0, model="other"), quarantined(model="tiny", scored_at=time.time())]
    journal.commit([Entry(one) for one in (*other, *week, *elsewhere)])
    for one, label in zip(week[5:9], ("false_alarm", "false_alarm", "real", "unsure"), strict=True):
        labels.put(journal, one.id, label)
    app = make(tmp_path)
    found = ask(app, "/api/v1/models/tiny/threshold?value=0.75").json()
    assert found["all"] == {"results": 10, "now": 5, "then": 3}
    assert found["labelled"] == {
        "false_alarm": {"results": 2, "now": 2, "then": 0},
        "real": {"results": 1, "now": 1, "then": 1},
        "unsure": {"results": 1, "now": 1, "then": 1},
    }
    assert (found["in_force"], found["line"], found["whole"], found["other_models"]) == (
        0.5,
        "threshold = 0.75",
        True,
        1,
    )
    assert found["calibration_above"] == 0
    now = ask(app, "/api/v1/models/tiny/threshold").json()
    assert now["all"] == {"results": 10, "now": 5, "then": 5}
    text = ask(app, "/models/tiny/threshold?value=0.75").text
    assert 'data-cell="line">threshold = 0.75<' in text
    assert "Left out, as results of another version of this model: 1." in text
    for wrong in ("0", "-1", "nan", "inf", "x", "1" * 100):
        assert ask(app, f"/api/v1/models/tiny/threshold?value={wrong}").status_code == 400
        assert ask(app, f"/models/tiny/threshold?value={wrong}").status_code == 400
    for path in ("/models/none/threshold", "/api/v1/models/none/threshold"):
        assert ask(app, path).status_code == 404


def test_without_results_there_is_a_page_all_the_same(tmp_path: Path) -> None:
    assert "threshold = 0.5" in ask(make(tmp_path), "/models/tiny/threshold").text


def test_reading_is_bounded(journal: Journal, tmp_path: Path) -> None:
    many = [of_tiny(score=0.25, scored_at=time.time() - 60 + number / 1000) for number in range(12_000)]
    for start in range(0, len(many), 1000):
        journal.commit([Entry(one) for one in many[start : start + 1000]])
    labels.put(journal, many[0].id, "real")
    sha256 = many[0].model_sha256
    whole = scores.read(tmp_path, "tiny", sha256, since=0.0, seconds=60)
    assert (len(whole.all), whole.is_whole, whole.since) == (12_000, True, 0.0)
    part = scores.read(tmp_path, "tiny", sha256, since=0.0, seconds=0)
    assert (len(part.all), part.is_whole) == (5000, False)
    assert part.since == pytest.approx(many[-5001].scored_at)
    assert len(part.labelled["real"]) == 1  # labels are of the whole time
    assert len(scores.read(tmp_path, "tiny", sha256, since=many[11_000].scored_at, seconds=60).all) == 1000


# Models.


def test_what_there_is_to_say_of_a_model(tmp_path: Path, tiny_copy: Path) -> None:
    plot = encode(Image.new("RGB", (60, 20), (1, 2, 3)))
    bundle = with_files(tiny_copy, card_md=CARD.encode(), scores_png=plot, secret_txt=b"x")
    app = make(tmp_path, bundle)
    (model,) = ask(app, "/api/v1/models").json()["models"]
    assert (model["name"], model["has_card"], model["pictures"]) == ("bundle", True, ["scores.png"])
    assert model["golden_test"]["worst"] <= 1
    assert [one["line"] for one in model["choices"] if one["in_force"]] == ["target_fpr = 0.01"]
    assert ask(app, "/api/v1/models/bundle/card.md").text == CARD
    text = ask(app, "/models").text
    assert "&lt;script&gt;" in text
    assert "evil.example" not in text
    assert "passwd" not in text
    assert 'src="/api/v1/models/bundle/pictures/scores.png"' in text
    assert '<table class="wide">' in text
    served = ask(app, "/api/v1/models/bundle/pictures/scores.png")
    assert Image.open(io.BytesIO(served.content)).size == (60, 20)
    for name in ("secret.txt", "model.onnx", "manifest.json", "..%2fmanifest.json", "none.png", "%00.png"):
        assert ask(app, f"/api/v1/models/bundle/pictures/{name}").status_code == 404
    for path in ("none/card.md", "none/samples.png", "none/pictures/scores.png", "bundle/samples.png"):
        assert ask(app, f"/api/v1/models/{path}").status_code == 404
    (bundle / "scores.png").write_bytes(plot + b"x")
    assert ask(app, "/api/v1/models/bundle/pictures/scores.png").status_code == 503


def test_a_card_shows_only_what_the_bundle_holds() -> None:
    html = card_html(CARD, ["scores.png"], lambda name: f"/pictures/{name}")
    assert html.startswith("<h3>tiny</h3>")
    assert html.count("<img") == 1
    assert "<a " not in html


def test_a_vae_draws(tmp_path: Path) -> None:
    bundle = tiny_kinds.vae(tmp_path / "drawer")
    app = make(tmp_path / "nothing", bundle)
    first = ask(app, "/api/v1/models/drawer/samples.png")
    sheet = np.asarray(Image.open(io.BytesIO(first.content)))
    assert sheet.shape == (4 * 32 + 3 * 2, 4 * 32 + 3 * 2)
    assert ask(app, "/api/v1/models/drawer/samples.png?seed=0").content == first.content
    assert ask(app, "/api/v1/models/drawer/samples.png?seed=1").content != first.content
    assert ask(app, "/api/v1/models/drawer/samples.png?seed=4").status_code == 400
    assert "/models?seed=2#drawer" in ask(app, "/models?seed=1").text
