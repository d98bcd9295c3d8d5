"""The row of `SOURCES` for folders. What it makes is imported when it is made: a command that only reads needs none."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edged.journal.journal import Journal
from edged.results import Record
from edged.settings import RetentionTable
from edged.sources.contract import SourceContext, SourceType
from edged.sources.folder.table import FolderTable

if TYPE_CHECKING:
    from edged.sources.folder.source import FolderSource


def _make(table: FolderTable, context: SourceContext) -> "FolderSource":
    from edged.sources.folder.source import FolderSource

    return FolderSource(table, context)


def _tidy(journal: Journal, limits: RetentionTable) -> Callable[[], int]:
    from edged.sources.folder.quarantine import tidy

    return tidy(journal, limits)


def _requeue(state_dir: Path, table: FolderTable, id_: str) -> str:
    from edged.sources.folder.requeue import requeue

    return requeue(state_dir, table, id_)


def _find(db: sqlite3.Connection, table: FolderTable, record: Record) -> Path | None:
    from edged.sources.folder.whereabouts import find

    return find(db, table, record)


TYPE: Final = SourceType(FolderTable, _make, tidy=_tidy, requeue=_requeue, find=_find)
