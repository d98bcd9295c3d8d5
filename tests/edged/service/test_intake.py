import threading
from concurrent.futures import ThreadPoolExecutor

from edged.service.intake import Intake
from edged.sources.folder.arrivals import Arrival, Stamps
from tests.edged.making import until


def arrival(source: str, name: int = 0) -> Arrival:
    return Arrival(f"{source}{name}", source, b"/in/%d" % name, Stamps(1, 1, 1), 0.0)


def test_sources_take_turns() -> None:
    intake = Intake(8)
    for source in ("a", "b"):
        intake.add_source(source, threading.Event())
    for number in range(5):
        assert intake.offer(arrival("a", number))
    for number in range(2):
        assert intake.offer(arrival("b", number))
    taken = [intake.take() for _ in range(7)]
    assert [one.id for one in taken if one] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_a_full_queue_refuses_and_wakes_its_source_when_there_is_room() -> None:
    intake, wake = Intake(4), threading.Event()
    intake.add_source("a", wake)
    assert [intake.offer(arrival("a", number)) for number in range(6)] == [True] * 4 + [False] * 2
    intake.take()
    assert not wake.is_set()  # not for every place
    intake.take()
    intake.take()
    assert wake.is_set()
    assert intake.offer(arrival("a", 9))


def test_a_full_queue_of_one_does_not_refuse_another() -> None:
    intake = Intake(1)
    for source in ("a", "b"):
        intake.add_source(source, threading.Event())
    assert [intake.offer(arrival(source)) for source in ("a", "a", "b")] == [True, False, True]
    assert not intake.offer(arrival("unknown"))


def test_take_waits_for_an_offer_and_for_the_end() -> None:
    intake = Intake(4)
    intake.add_source("a", threading.Event())
    with ThreadPoolExecutor(2) as executor:
        waiting = executor.submit(intake.take)
        intake.offer(arrival("a"))
        found = waiting.result(timeout=30)
        assert found is not None
        others = [executor.submit(intake.take) for _ in range(2)]
        intake.close()
        assert [other.result(timeout=30) for other in others] == [None, None]
    assert not intake.offer(arrival("a"))
    assert intake.take() is None


def test_what_waits_at_the_end_is_not_taken() -> None:
    intake = Intake(4)
    intake.add_source("a", threading.Event())
    intake.offer(arrival("a"))
    intake.close()
    assert intake.take() is None


def test_a_source_is_drained_before_it_goes() -> None:
    intake = Intake(4)
    intake.add_source("a", threading.Event())
    intake.offer(arrival("a", 0))
    intake.offer(arrival("a", 1))
    assert intake.take() is not None
    with ThreadPoolExecutor(1) as executor:
        drained = executor.submit(intake.drain, ["a"], 30.0)
        until(lambda: not intake.offer(arrival("a", 2)), "refusal while it drains")
        intake.done("a")
        assert drained.result(timeout=30) is True
    intake.remove_source("a")
    assert not intake.offer(arrival("a", 3))
    intake.add_source("a", threading.Event())
    assert intake.offer(arrival("a", 4))
    again = intake.take()
    assert again is not None
    assert again.id == "a4"  # what waited before is in its folder still


def test_a_source_that_does_not_drain_goes_on() -> None:
    intake, wake = Intake(4), threading.Event()
    intake.add_source("a", wake)
    intake.offer(arrival("a", 0))
    intake.take()
    assert intake.drain(["a"], 0.05) is False
    assert wake.is_set()
    assert intake.offer(arrival("a", 1))
    assert intake.take() is not None


def test_an_offer_wakes_a_worker_while_another_source_drains() -> None:
    intake = Intake(4)
    for source in ("a", "b"):
        intake.add_source(source, threading.Event())
    intake.offer(arrival("a"))
    intake.take()
    with ThreadPoolExecutor(2) as executor:
        drained = executor.submit(intake.drain, ["a"], 20.0)
        until(lambda: not intake.offer(arrival("a", 1)), "refusal while it drains")
        worker = executor.submit(intake.take)
        until(lambda: len(intake._changed._waiters) == 2, "the worker to wait")  # type: ignore[attr-defined]
        intake.offer(arrival("b"))
        try:
            found = worker.result(timeout=5)
        finally:
            intake.done("a")
            intake.close()
        assert found is not None
        assert drained.result(timeout=30)
