import os
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edged.errors import SinkError
from edged.results import Frame, Result
from edged.sinks.images import ImagesSink, ImagesTable


def draw(sink: ImagesSink, number: int, *, anomaly: bool = True) -> str:
    id_ = f"{number:026x}"
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    heat = np.zeros((8, 8), np.float32)
    result = Result(id_, "line1", 2.0, 1.0, 0.01, anomaly, heat, "tiny", {})
    if sink.wants(result):
        sink.write(Frame("line1", id_, 0.0, pixels), result)
    return id_


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_anomalies_or_all(tmp_path: Path) -> None:
    for only, expected in ((True, 1), (False, 2)):
        folder = tmp_path / str(only)
        sink = ImagesSink(
            ImagesTable(name="pictures", type="images", dir=folder, only="anomalies" if only else "all"),
            max_bytes=10**9,
        )
        draw(sink, 1, anomaly=False)
        id_ = draw(sink, 2)
        assert len(names(folder)) == expected
        with Image.open(folder / f"{id_}.png") as overlay:
            assert (overlay.size, overlay.mode) == ((320, 32 + 54), "RGB")  # with the legend
            assert overlay.text["id"] == id_
            assert (overlay.text["source"], overlay.text["captured_at"]) == ("line1", "1970-01-01T00:00:00.000Z")
            assert {"model", "score", "threshold"} < overlay.text.keys()


def test_the_oldest_go_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    foreign = tmp_path / "holiday.png"
    foreign.write_bytes(b"x" * 50_000)
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path), max_bytes=20_000)
    ids = [draw(sink, number) for number in range(40)]
    ours = [name for name in names(tmp_path) if name != "holiday.png"]
    assert sum((tmp_path / name).stat().st_size for name in ours) <= 20_000
    assert ours == [f"{id_}.png" for id_ in ids[-len(ours) :]]
    assert 2 <= len(ours) < 40
    assert foreign.stat().st_size == 50_000
    again = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path), max_bytes=20_000)
    for number in range(40, 60):  # one that is started again counts what is there
        draw(again, number)
        ours = [name for name in names(tmp_path) if name != "holiday.png"]
        assert sum((tmp_path / name).stat().st_size for name in ours) <= 20_000


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / f".{1:026x}.part").write_bytes(b"half")
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path), max_bytes=10**9)
    id_ = draw(sink, 2)
    assert names(tmp_path) == [f"{id_}.png"]


def test_overlays_of_no_result_can_be_found_and_removed(tmp_path: Path) -> None:
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path / "new"), max_bytes=10**9)
    assert sink.newest(5) == []
    ids = [draw(sink, number) for number in range(4)]
    assert sink.newest(3) == ids[1:]
    sink.remove([ids[1], "f" * 26])
    assert sink.newest(9) == [ids[0], *ids[2:]]


def test_many_overlays_are_looked_through_in_little_memory(tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(tmp_path / f"{number:026x}.png", os.O_CREAT | os.O_WRONLY))
    # In a process of its own: what threads of other tests take would be counted.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        assert alone.submit(peak_of_looking_through, tmp_path).result() < 1_000_000


def peak_of_looking_through(folder: Path) -> int:
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=folder), max_bytes=10**9)
    draw(sink, 20_001)  # which loads the font
    tracemalloc.start()
    assert len(sink.newest(1000)) == 1000
    assert sink.remove_older(time.time()) == 1000
    draw(sink, 30_000)
    return tracemalloc.get_traced_memory()[1]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path / "file"), max_bytes=10**9)
    with pytest.raises(SinkError, match="cannot be written"):
        draw(sink, 1)
    (tmp_path / "file").unlink()
    id_ = draw(sink, 2)
    assert names(tmp_path / "file") == [f"{id_}.png"]


def test_an_overlay_is_given_back_by_its_id_alone(tmp_path: Path) -> None:
    sink = ImagesSink(ImagesTable(name="pictures", type="images", dir=tmp_path / "out"), max_bytes=10**9)
    id_ = draw(sink, 1)
    assert sink.read(id_) == (tmp_path / "out" / f"{id_}.png").read_bytes()
    (tmp_path / "secret.png").write_bytes(b"secret")
    other = "0" * 26
    (tmp_path / "out" / f"{other}.png").symlink_to(tmp_path / "secret.png")
    for wrong in (other, "1" * 26, "../secret", "", f"../out/{id_}", f"{id_}\n"):
        assert sink.read(wrong) is None
