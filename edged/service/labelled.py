"""`edged labels export`: the files of labelled results, a folder a label."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.config.tables import Config
from edged.errors import ConfigError
from edged.files import sync
from edged.journal import browsing, labels
from edged.results import COLUMNS, Record, csv_line
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
    tables, state_dir = {table.name: table for table in config.sources}, config.service.state_dir
    for label in labels.LABELS:
        (out / label).mkdir()
    with (out / TABLE).open("w", encoding="ascii", newline="") as table:
        table.write(csv_line((*COLUMNS, "label", "note", "labelled_at", "file")))
        for id_, said in labels.read(state_dir).items():
            record = browsing.find(state_dir, id_)
            if record is None:  # retention has just removed it
                continue
            source = tables.get(record.source)
            find = None if source is None else SOURCES[source.type].find
            found = None if find is None else find(state_dir, source, record)
            name = Path(said.label, record.id + Path(record.path).suffix)
            problem = None if found else "its file is gone, or has changed"
            if found is not None:
                try:
                    shutil.copyfile(found, out / name)
                except OSError as error:
                    problem = f"cannot be copied: {error.strerror}"
            about = record.to_dict()
            row = (*(about[column] for column in COLUMNS), *said.to_dict().values(), "" if problem else str(name))
            table.write(csv_line(row))
            yield record, problem
    sync(out)
