import threading
import time
from concurrent.futures import ThreadPoolExecutor

from edged.service.gathering import Gatherer
from tests.edged.making import until


def test_the_first_item_does_not_wait_when_its_moment_has_come() -> None:
    gatherer: Gatherer[int] = Gatherer(8)
    with ThreadPoolExecutor(1) as executor:
        taken = executor.submit(gatherer.take, 0.0, 0.0)
        until(lambda: len(gatherer._filled._waiters) == 1, "the reader to wait")  # type: ignore[attr-defined]
        gatherer.put(1)
        assert taken.result(timeout=30) == [1]


def test_items_gather_until_the_moment_or_until_there_is_no_room() -> None:
    gatherer: Gatherer[int] = Gatherer(4)
    for number in range(3):
        gatherer.put(number)
    began = time.monotonic()
    assert gatherer.take(began + 0.2, began + 0.2) == [0, 1, 2]
    assert time.monotonic() >= began + 0.2
    with ThreadPoolExecutor(2) as executor:
        far = executor.submit(gatherer.take, began + 3600, began + 3600)
        for number in range(4):
            gatherer.put(number)
        assert far.result(timeout=30) == [0, 1, 2, 3]


def test_one_in_a_hurry_ends_the_longer_wait() -> None:
    gatherer: Gatherer[int] = Gatherer(8)
    gatherer.put(0, hurry=False)
    with ThreadPoolExecutor(1) as executor:
        taken = executor.submit(gatherer.take, 0.0, time.monotonic() + 3600)
        until(lambda: len(gatherer._filled._waiters) == 1, "the reader to wait")  # type: ignore[attr-defined]
        gatherer.put(1, hurry=False)
        assert len(gatherer._filled._waiters) == 1  # type: ignore[attr-defined]
        gatherer.put(2, hurry=True)
        assert taken.result(timeout=30) == [0, 1, 2]
    gatherer.put(3, hurry=False)  # that hurry is over
    began = time.monotonic()
    assert gatherer.take(0.0, began + 0.2) == [3]
    assert time.monotonic() >= began + 0.2


def test_who_adds_waits_for_room() -> None:
    gatherer: Gatherer[int] = Gatherer(2)
    gatherer.put(0)
    gatherer.put(1)
    adding = threading.Thread(target=gatherer.put, args=(2,))
    adding.start()
    until(lambda: len(gatherer._room._waiters) == 1, "it to wait")  # type: ignore[attr-defined]
    assert gatherer.take(0.0, 0.0) == [0, 1]
    adding.join(30)
    assert gatherer.take(0.0, 0.0) == [2]


def test_the_end_is_told_at_once_and_after_what_is_left() -> None:
    gatherer: Gatherer[int] = Gatherer(8)
    far = time.monotonic() + 3600
    gatherer.put(1)
    gatherer.close()
    assert gatherer.take(far, far) == [1]
    assert gatherer.take(far, far) == []
