import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.models.runtime import worker_count
from edged.models.turnstile import GPU_BATCH, Turnstile
from tests.edged.making import until


class Model:
    """Doubles numbers, remembers what ran together, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self._mutex = threading.Lock()

    def run(self, items: Sequence[int]) -> list[int]:
        with self._mutex:
            self.batches.append(list(items))
            self.running += 1
            self.most = max(self.most, self.running)
        self.gate.wait()
        with self._mutex:
            self.running -= 1
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


def test_on_cpus_each_runs_alone_and_no_more_than_there_are_slots() -> None:
    turnstile, model = Turnstile(slots=2), Model()
    model.gate.clear()
    with ThreadPoolExecutor(5) as executor:
        futures = [executor.submit(turnstile.pass_through, number, model.run) for number in range(5)]
        until(lambda: model.running == 2, "two to run")
        model.gate.set()
        assert [future.result(timeout=30) for future in futures] == [0, 2, 4, 6, 8]
    assert model.most == 2
    assert sorted(model.batches) == [[0], [1], [2], [3], [4]]


def test_on_a_gpu_what_waits_goes_together() -> None:
    turnstile, model = Turnstile(batch=4), Model()
    model.gate.clear()
    with ThreadPoolExecutor(8) as executor:
        first = executor.submit(turnstile.pass_through, 100, model.run)
        until(lambda: model.running == 1, "the first to run")
        others = [executor.submit(turnstile.pass_through, number, model.run) for number in range(6)]
        until(lambda: len(turnstile._waiting) == 6, "the others to wait")
        model.gate.set()
        assert first.result(timeout=30) == 200
        assert [future.result(timeout=30) for future in others] == [0, 2, 4, 6, 8, 10]
    assert model.most == 1
    assert [len(batch) for batch in model.batches] == [1, 4, 2]


def test_what_fails_fails_for_those_who_were_in_it_and_no_other() -> None:
    turnstile, model = Turnstile(batch=2), Model()
    with pytest.raises(ValueError, match="13"):
        turnstile.pass_through(13, model.run)
    assert turnstile.pass_through(4, model.run) == 8


def test_threads_of_a_model_leave_cpus_for_fewer_runs() -> None:
    workers = worker_count()
    assert [Turnstile.on_cpus(threads).slots for threads in (1, workers, 2 * workers)] == [workers, 1, 1]
    assert Turnstile.on_gpu().another().batch == GPU_BATCH
