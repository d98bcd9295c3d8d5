"""The files of labelled results: for `edged labels export`, a folder a label, and for `edged calibrate --labels`."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.config.tables import Config
from edged.errors import ConfigError
from edged.files import open_regular, sync
from edged.journal import browsing, labels
from edged.journal.labels import Label
from edged.journal.reading import opened
from edged.results import Record, csv_line, rfc3339
from edged.sources import SOURCES

TABLE: Final = "labels.csv"


def export(config: Config, out: Path) -> Iterator[tuple[Record, str | None]]:
    """Copies the files of labelled results to `out/LABEL/ID.suffix`, and writes a table of all, as they are asked for.

    Args:
        config: says where the journal and the files are.
        out: must not exist.

    Yields:
        Each labelled result, and why its file was not copied; None where it was.

    Raises:
        ConfigError: `out` exists.
        JournalError: the journal cannot be read.
        OSError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError([f"{out} exists; give a folder that does not"]) from None
    for label in labels.LABELS:
        (out / label).mkdir()
    with (out / TABLE).open("w", encoding="utf-8", newline="") as table:
        table.write(csv_line((*labels.CSV_COLUMNS, "labelled_at", "file")))
        for record, said in _labelled(config.service.state_dir):
            found = _find(config, record)
            name = Path(said.label, record.id + Path(record.path).suffix)
            problem = None if found else "its file is gone, or has changed"
            if found is not None:
                try:
                    shutil.copyfile(found, out / name)
                except OSError as error:
                    problem = f"cannot be copied: {error.strerror}"
            row = (*labels.csv_row(record, said), rfc3339(said.labelled_at), "" if problem else str(name))
            table.write(csv_line(row))
            yield record, problem
    sync(out)


def confirmed_good(config: Config, bundle: Path, model_sha256: str) -> Iterator[tuple[Record, Path | None]]:
    """Results of a model that people called false alarms, each with its file; None where it is gone, or has changed.

    Those of a source that looks at a part of its pictures (its own `roi` or `mask`) are not among them: the model
    scores the whole picture otherwise.

    Args:
        config: says where the journal and the files are.
        bundle: results of sources that take it are meant.
        model_sha256: so are those that this model gave, wherever it stood then.

    Raises:
        JournalError: the journal cannot be read.
    """
    models = {name for name, table in config.models.items() if os.path.realpath(table.path) == os.path.realpath(bundle)}
    partial = {
        source.name for source in config.sources if getattr(source, "roi", None) or getattr(source, "mask", None)
    }
    of_bundle = {source.name for source in config.sources if source.model in models}
    for record, said in _labelled(config.service.state_dir):
        is_of_it = record.source in of_bundle or record.model_sha256 == model_sha256
        if said.label == "false_alarm" and is_of_it and record.source not in partial:
            yield record, _find(config, record)


def _labelled(state_dir: Path) -> Iterator[tuple[Record, Label]]:
    for id_, said in labels.read(state_dir).items():
        record = browsing.find(state_dir, id_)
        if record is not None:  # else retention has just removed it
            yield record, said


def place_of(config: Config, record: Record) -> Path | None:
    """Where the file of a result is now; None where it was deleted, changed or taken away, or there never was one."""
    table = next((table for table in config.sources if table.name == record.source), None)
    find = None if table is None else SOURCES[table.type].find
    if find is None:
        return None
    with opened(config.service.state_dir) as db:
        return None if db is None else find(db, table, record)


def _find(config: Config, record: Record) -> Path | None:
    """The file of a result, if it still has the bytes that were scored."""
    found = place_of(config, record)
    if found is not None:
        with contextlib.suppress(OSError), open_regular(found) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == record.sha256:
                return found
    return None
