import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edged.service.intake import Intake
from tests.edged.making import until


class Waits:
    """A source (`edged.sources.contract.Source`) as intake sees it."""

    when_full = "wait"

    def __init__(self, name: str) -> None:
        self.name, self.wake = name, threading.Event()


class Drops(Waits):
    when_full = "drop_oldest"


class Given:
    """A delivery (`edged.sources.contract.Delivery`) as intake sees it."""

    def __init__(self, source: str, number: int = 0) -> None:
        self.id, self.source, self.was_given_back = f"{source}{number}", source, False

    def give_back(self) -> None:
        self.was_given_back = True


def intake_of(capacity: int, *sources: Any, **options: Any) -> Intake:
    intake = Intake(capacity, **options)
    for source in sources:
        intake.add_source(source)
    return intake


def hand(intake: Intake, source: str, number: int = 0) -> bool:
    return intake.hand_over(Given(source, number))  # type: ignore[arg-type]


def test_sources_take_turns() -> None:
    intake = intake_of(8, Waits("a"), Waits("b"))
    for number in range(5):
        assert hand(intake, "a", number)
    for number in range(2):
        assert hand(intake, "b", number)
    assert intake.has_waiting()
    taken = [intake.take() for _ in range(7)]
    assert not intake.has_waiting()
    assert [one.id for one in taken if one] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_a_full_queue_refuses_and_wakes_its_source_when_there_is_room() -> None:
    source = Waits("a")
    intake = intake_of(4, source)
    assert [hand(intake, "a", number) for number in range(6)] == [True] * 4 + [False] * 2
    intake.take()
    assert not source.wake.is_set()  # not for every place
    intake.take()
    intake.take()
    assert source.wake.is_set()
    assert hand(intake, "a", 9)


def test_a_full_queue_of_a_camera_drops_the_oldest_and_counts_it() -> None:
    dropped: list[str] = []
    intake = intake_of(3, Drops("camera"), dropped=dropped.append)
    frames = [Given("camera", number) for number in range(5)]
    assert all(intake.hand_over(frame) for frame in frames)  # type: ignore[arg-type]
    assert dropped == ["camera", "camera"]
    assert [frame.was_given_back for frame in frames] == [True, True, False, False, False]
    assert [one.id for one in (intake.take() for _ in range(3)) if one] == ["camera2", "camera3", "camera4"]


def test_a_full_queue_of_one_does_not_refuse_another() -> None:
    intake = intake_of(1, Waits("a"), Waits("b"))
    assert [hand(intake, source) for source in ("a", "a", "b")] == [True, False, True]
    assert not hand(intake, "unknown")


def test_take_waits_for_a_delivery_and_for_the_end() -> None:
    intake = intake_of(4, Waits("a"))
    with ThreadPoolExecutor(2) as executor:
        waiting = executor.submit(intake.take)
        hand(intake, "a")
        found = waiting.result(timeout=30)
        assert found is not None
        others = [executor.submit(intake.take) for _ in range(2)]
        intake.close()
        assert [other.result(timeout=30) for other in others] == [None, None]
    assert not hand(intake, "a")
    assert intake.take() is None


def test_what_waits_at_the_end_is_not_taken() -> None:
    intake = intake_of(4, Waits("a"))
    hand(intake, "a")
    intake.close()
    assert intake.take() is None


def test_a_source_is_drained_before_it_goes() -> None:
    intake, kept = intake_of(4, Waits("a")), Given("a", 1)
    hand(intake, "a", 0)
    intake.hand_over(kept)  # type: ignore[arg-type]
    assert intake.take() is not None
    with ThreadPoolExecutor(1) as executor:
        drained = executor.submit(intake.drain, ["a"], 30.0)
        until(lambda: not hand(intake, "a", 2), "refusal while it drains")
        intake.done("a")
        assert drained.result(timeout=30) is True
    intake.remove_source("a")
    assert kept.was_given_back
    assert not hand(intake, "a", 3)
    intake.add_source(Waits("a"))  # type: ignore[arg-type]
    assert hand(intake, "a", 4)
    again = intake.take()
    assert again is not None
    assert again.id == "a4"


def test_a_source_that_does_not_drain_goes_on() -> None:
    source = Waits("a")
    intake = intake_of(4, source)
    hand(intake, "a", 0)
    intake.take()
    assert intake.drain(["a"], 0.05) is False
    assert source.wake.is_set()
    assert hand(intake, "a", 1)
    assert intake.take() is not None


def test_a_delivery_wakes_a_worker_while_another_source_drains() -> None:
    intake = intake_of(4, Waits("a"), Waits("b"))
    hand(intake, "a")
    intake.take()
    with ThreadPoolExecutor(2) as executor:
        drained = executor.submit(intake.drain, ["a"], 20.0)
        until(lambda: not hand(intake, "a", 1), "refusal while it drains")
        worker = executor.submit(intake.take)
        until(lambda: len(intake._arrived._waiters) == 1, "the worker to wait")  # type: ignore[attr-defined]
        hand(intake, "b")
        try:
            found = worker.result(timeout=5)
        finally:
            intake.done("a")
            intake.close()
        assert found is not None
        assert drained.result(timeout=30)
