import json
import pickle
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.errors import BundleError
from edged.models import bundle as bundles
from edged.models.manifest import NAME, Calibration


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def reseal(bundle: Path) -> None:
    """Writes sizes and digests of the files as they are into the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"], manifest["schema_version"]
    sealed = bundles.seal(bundle, manifest)
    edit(bundle / "calibration.json", model_sha256=sealed.files["model.onnx"].sha256)


def test_load(tiny: Path) -> None:
    bundle = bundles.load(tiny)
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.input.shape == (32, 32, 1)
    assert bundle.model_sha256 == bundle.calibration.model_sha256
    assert (bundle.calibration.n, len(bundle.calibration.scores)) == (99, 99)
    assert len(bundle.read("model.onnx")) == 593
    golden = bundle.golden()
    assert golden.image.shape == (3, 32, 32, 1)
    assert golden.anomaly_map.shape == (3, 8, 8)
    assert golden.score[2] == pytest.approx(127 / 64 + 0.01)


def test_unknown_keys_of_a_newer_export_are_ignored(tiny_copy: Path) -> None:
    edit(tiny_copy / "manifest.json", something_new={"a": 1})
    assert bundles.load(tiny_copy).manifest.name == "tiny"


@pytest.mark.parametrize("name", ["manifest.json", "calibration.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_damaged_json_is_refused(tiny_copy: Path, name: str, content: bytes) -> None:
    (tiny_copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        bundles.load(tiny_copy)


@pytest.mark.parametrize("name", ["manifest.json", "calibration.json"])
def test_absent_json_is_refused(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    with pytest.raises(BundleError, match=r"(cannot be read: No such file|is no bundle)"):
        bundles.load(tiny_copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"name": "../evil"}, "name"),
        ({"kind": "gan"}, "kind"),
        ({"input": {"kind": "image", "height": 5, "width": 32, "channels": 1}}, "8 to 4096"),
        ({"input": {"kind": "image", "height": 32, "width": 32, "channels": 2}}, "channels"),
        ({"outputs": {}}, "score is missing"),
        ({"tolerance": {"rtol": 100.0, "atol": 0.0}}, "rtol"),
        ({"tolerance": None}, "tolerance"),
        ({"files": {}}, r"model\.onnx and golden\.npz must be listed"),
    ],
)
def test_a_wrong_manifest_is_refused(tiny_copy: Path, changes: dict[str, Any], says: str) -> None:
    edit(tiny_copy / "manifest.json", **changes)
    with pytest.raises(BundleError, match=says):
        bundles.load(tiny_copy)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "..", "manifest.json", "a\\b", ""])
def test_files_outside_the_bundle_are_refused(tiny_copy: Path, name: str) -> None:
    files = json.loads((tiny_copy / "manifest.json").read_text())["files"]
    edit(tiny_copy / "manifest.json", files={**files, name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(BundleError, match="not a plain file name"):
        bundles.load(tiny_copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_sha256": "0" * 64}, "of another model"),
        ({"n": 98}, "n is 98, scores are 99"),
        ({"scores": [0.1, -1.0]}, "scores"),
        ({"scores": [0.1, "NaN"]}, "scores"),
        ({"scores": [], "n": 0}, "n"),
        ({"target_fpr": 0}, "target_fpr"),
    ],
)
def test_a_wrong_calibration_is_refused(tiny_copy: Path, changes: dict[str, Any], says: str) -> None:
    edit(tiny_copy / "calibration.json", **changes)
    with pytest.raises(BundleError, match=says):
        bundles.load(tiny_copy)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_changed_file_is_refused(tiny_copy: Path, name: str) -> None:
    data = bytearray((tiny_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    for content in (bytes(data), bytes(data[:-1]), bytes(data) + b"x"):
        (tiny_copy / name).write_bytes(content)
        with pytest.raises(BundleError, match=r"damaged|larger"):
            bundles.load(tiny_copy).read(name)
    (tiny_copy / name).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        bundles.load(tiny_copy).read(name)


def test_what_the_manifest_does_not_list_is_not_read(tiny_copy: Path) -> None:
    (tiny_copy / "extra").write_text("x")
    with pytest.raises(BundleError, match="not in the manifest"):
        bundles.load(tiny_copy).read("extra")


class Owned:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def test_golden_pictures_are_never_unpickled(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = np.empty(1, dtype=object)
    hostile[0] = Owned()
    np.savez(tiny_copy / "golden.npz", image=hostile, score=hostile, anomaly_map=hostile)
    reseal(tiny_copy)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be used"):
        bundles.load(tiny_copy).golden()
    (tiny_copy / "golden.npz").write_bytes(pickle.dumps(Owned()))
    reseal(tiny_copy)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be used"):
        bundles.load(tiny_copy).golden()
    assert not (tmp_path / "owned").exists()


def test_golden_pictures_do_not_unpack_without_bound(tiny_copy: Path) -> None:
    with zipfile.ZipFile(tiny_copy / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.npy", bytes(100_000_000))
    reseal(tiny_copy)
    with pytest.raises(BundleError, match="unpacks to more"):
        bundles.load(tiny_copy).golden()


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": np.zeros((1, 16, 16, 1), np.uint8), "score": np.ones(1), "anomaly_map": np.zeros((1, 8, 8))},
        {"image": np.zeros((1, 32, 32, 1), np.float32), "score": np.ones(1), "anomaly_map": np.zeros((1, 8, 8))},
        {"image": np.zeros((2, 32, 32, 1), np.uint8), "score": np.ones(1), "anomaly_map": np.zeros((1, 8, 8))},
        {"image": np.zeros((0, 32, 32, 1), np.uint8), "score": np.ones(0), "anomaly_map": np.zeros((0, 8, 8))},
        {"image": np.zeros((1, 32, 32, 1), np.uint8), "score": np.ones(1)},
    ],
)
def test_golden_pictures_that_do_not_fit_are_refused(tiny_copy: Path, arrays: dict[str, Any]) -> None:
    np.savez(tiny_copy / "golden.npz", **arrays)
    reseal(tiny_copy)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be used"):
        bundles.load(tiny_copy).golden()


# Writing.


def test_a_bundle_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bundle"

    def fail() -> None:
        with bundles.writing(out) as folder:
            (folder / "model.onnx").write_text("half")
            assert not out.exists()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []
    with bundles.writing(out) as folder:
        (folder / "model.onnx").write_text("whole")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bundle"]
    assert (out / "model.onnx").read_text() == "whole"
    assert out.stat().st_mode & 0o777 == 0o755
    with pytest.raises(BundleError, match="exists already"), bundles.writing(out):
        pass
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(BundleError, match="exists already"), bundles.writing(tmp_path / "link"):
        pass


def test_what_was_made_is_kept_where_its_place_was_taken_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def be_late() -> None:
        with bundles.writing(out) as folder:
            (folder / "model.onnx").write_text("whole")
            out.mkdir()
            (out / "another").write_text("")

    with pytest.raises(BundleError, match=r"cannot take its place: .*; all that was made is in ") as caught:
        be_late()
    kept = Path(str(caught.value).rpartition(" is in ")[2].partition(":")[0])
    assert (kept / "model.onnx").read_text() == "whole"
    assert [path.name for path in out.iterdir()] == ["another"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my bundle", "my-bundle"),
        ("Prüfstand", "Prufstand"),
        ("_solar.", "solar"),
        ("ä" * 120, "a" * 100),
        ("日本", "model"),
    ],
)
def test_any_text_gives_a_name_that_a_model_may_have(text: str, name: str) -> None:
    assert bundles.as_name(text) == name
    assert re.fullmatch(NAME, name)


def test_calibration_is_replaced_whole(tiny_copy: Path) -> None:
    before = bundles.load(tiny_copy)
    calibration = Calibration(
        model_sha256=before.model_sha256, created=datetime.now(UTC), target_fpr=0.1, n=2, scores=[0.1, 0.2]
    )
    names = {path.name for path in tiny_copy.iterdir()}
    bundles.write_calibration(tiny_copy, calibration)
    assert {path.name for path in tiny_copy.iterdir()} == names | {bundles.PREVIOUS}
    assert bundles.load(tiny_copy).calibration == calibration
    assert bundles.load(tiny_copy).calibration_sha256 != before.calibration_sha256
    assert bundles.load(tiny_copy).manifest == before.manifest
    assert (tiny_copy / "calibration.json").stat().st_mode & 0o777 == 0o644
    with pytest.raises(BundleError, match="cannot be written"):
        bundles.write_calibration(tiny_copy / "nowhere", calibration)


def test_the_committed_bundle_is_what_its_generator_writes(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests import tiny_bundle

    tiny_bundle.write(tmp_path / "tiny")
    for name in ("manifest.json", "calibration.json", "model.onnx"):
        made, kept = (tmp_path / "tiny" / name).read_bytes(), (tiny / name).read_bytes()
        if name == "manifest.json":
            made, kept = (json.dumps({**json.loads(text), "files": 0}).encode() for text in (made, kept))
        assert made == kept, name


def test_the_previous_calibration_is_one_step_away_and_back(tiny_copy: Path) -> None:
    before = bundles.load(tiny_copy)
    with pytest.raises(BundleError, match="there is no previous calibration; give --good DIR"):
        bundles.restore_calibration(before)
    newer = before.calibration.model_copy(update={"target_fpr": 0.1, "n": 2, "scores": [0.1, 0.2]})
    bundles.write_calibration(tiny_copy, newer)
    for calibration in (before.calibration, newer, before.calibration):
        assert bundles.restore_calibration(bundles.load(tiny_copy)) == calibration
        assert bundles.load(tiny_copy).calibration == calibration
    assert bundles.load(tiny_copy).calibration_sha256 == before.calibration_sha256  # to the byte
    (tiny_copy / bundles.PREVIOUS).write_text((tiny_copy / bundles.CALIBRATION).read_text().replace("0.", "9.", 1)[:-9])
    with pytest.raises(BundleError, match=r"calibration\.previous\.json"):
        bundles.restore_calibration(before)
    assert bundles.load(tiny_copy).calibration == before.calibration
