"""Random lives of a daemon against a model: the producer's own list of what it has put where."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edged.failpoints import POINTS
from tests.edged.killing import Line
from tests.edged.making import TIMES

PATIENCE_S = 2.0
"""How long a step waits for something that need not happen."""


class Life(RuleBasedStateMachine):
    """What producers and operators do, and what happens to a daemon, in any order.

    A new way to end or begin a life, or to move a file, is one more rule.
    """

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="edged-life-"))
        self.line = Line(self.root, seed=seed)
        self.pruned = False

    @property
    def runs(self) -> bool:
        return self.line.site.process is not None

    # Producers.

    @rule(count=st.integers(1, 8))
    def produce(self, count: int) -> None:
        for _ in range(count):
            self.line.producer.drop()

    @precondition(lambda self: self.runs)
    @rule(rows=st.integers(1, 8))
    def let_it_work(self, rows: int) -> None:
        wanted, deadline = self.line.rows() + rows, time.monotonic() + PATIENCE_S
        while self.line.rows() < wanted and time.monotonic() < deadline:
            time.sleep(0.005)

    # Lives.

    @precondition(lambda self: not self.runs)
    @rule()
    def start(self) -> None:
        self.line.site.start()

    @precondition(lambda self: self.runs)
    @rule()
    def kill(self) -> None:
        self.line.site.kill()

    @precondition(lambda self: self.runs)
    @rule()
    def stop(self) -> None:
        assert self.line.site.stop() == 0

    @precondition(lambda self: not self.runs)
    @rule(point=st.sampled_from(POINTS), passes=st.integers(1, 4))
    def start_to_crash(self, point: str, passes: int) -> None:
        site = self.line.site
        self.line.producer.drop()
        site.start(wait=False, environment={"EDGED_FAILPOINT": f"{point}:{passes}"})
        assert site.process is not None
        deadline = time.monotonic() + 2 * PATIENCE_S
        while site.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if site.process.poll() is None:  # it came by too seldom
            site.kill()
        assert site.process is None or site.process.returncode == -signal.SIGKILL, site.log.read_text()[-2000:]
        site.process = None

    # Operators.

    @precondition(lambda self: not self.runs)
    @rule()
    def remove_old_results_from_now_on(self) -> None:
        self.line.configure("[retention]\nresults_days = 0.00001")
        self.pruned = True

    @precondition(lambda self: not self.runs)
    @rule(number=st.integers(0, 1000))
    def ask_again(self, number: int) -> None:
        self.line.ask_again(number)

    @precondition(lambda self: self.runs)
    @rule()
    def reload(self) -> None:
        os.kill(self.line.site.pid, signal.SIGHUP)

    def teardown(self) -> None:
        if not hasattr(self, "line"):
            return
        try:
            self.line.producer.stop()
            account = self.line.finish(restarts=0, pruned=self.pruned)
            assert account.problems == []
            assert account.rows == account.dropped + self.line.asked
        finally:
            self.line.clean_up()
            shutil.rmtree(self.root)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=3 * TIMES,
    derandomize=TIMES == 1,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
