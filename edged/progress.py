"""A progress bar for long work on a terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_T = TypeVar("_T")


def bar(items: Iterable[_T], total: int | None) -> Iterator[_T]:
    """Passes `items` on, and shows on standard error how many of `total` went by; None: nobody knows."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # A bar only where it disturbs nothing: not when both streams are the same terminal.
        disable=not sys.stderr.isatty() or sys.stdout.isatty(),
    )
    with progress:
        yield from progress.track(items, total=total, description="pictures")
