"""Progress of long work: a bar on a terminal, one line a stage elsewhere, always on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


class Track(Protocol):
    """Opens one stage of the work."""

    def __call__(self, stage: str) -> AbstractContextManager[Advance]:
        """The stage's name -> what is called as it goes."""
        ...


def on(console: Console) -> Track:
    """Progress on this console."""

    @contextmanager
    def track(stage: str) -> Iterator[Advance]:
        began = time.monotonic()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description:12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=console) as bar:
                task = bar.add_task(stage, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            yield silent
            console.print(f"{stage}: {time.monotonic() - began:.1f} s", highlight=False)

    return track


def silent(done: int, total: int) -> None:
    """Progress that nobody sees."""


@contextmanager
def nowhere(stage: str) -> Iterator[Advance]:  # noqa: ARG001 -- a Track
    """A stage that nobody sees."""
    yield silent
