"""What a reload would change: the configuration as it stands now, beside the one that is in force."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from edged.config import loading as configuration
from edged.config.tables import Config
from edged.errors import EdgedError
from edged.models import registry
from edged.models.registry import Models
from edged.sources import SOURCES

_AT_START_ONLY: Final = ("service", "http", "limits", "sinks", "retention")
_STAYS: Final = "the running configuration stays"


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload would put in force.

    Attributes:
        config: with the tables that are read at start only as they are.
        models: of it, loaded.
        staying: names of sources that go on as they run.
        leaving: names of those that end; what they are of now, if anything, begins anew.
    """

    config: Config
    models: Models
    staying: frozenset[str]
    leaving: list[str]


class ReloadRefusedError(EdgedError):
    """A reload changes nothing; the text says why, and `details` are for the log."""

    def __init__(self, why: str, **details: object) -> None:
        super().__init__(why)
        self.details = details


def plan(path: Path, before: Config, models: Models) -> Change:
    """Reads the configuration at `path`, and loads its models, beside those that run.

    Raises:
        ReloadRefusedError: it cannot be put in force.
    """
    try:
        config = configuration.load(path)
        new = registry.load(config.models, config.sources, models)
    except Exception as error:  # whatever is wrong with what is new, what runs goes on
        trace = None if isinstance(error, EdgedError) else error
        raise ReloadRefusedError(_STAYS, error=str(error), exc_info=trace) from error
    fixed = [key for key in _AT_START_ONLY if getattr(config, key) != getattr(before, key)]
    if fixed:
        log = structlog.get_logger()
        log.warning("these tables are read at start only; restart edged for them", tables=fixed)
        config = config.model_copy(update={key: getattr(before, key) for key in fixed})
        if problems := config.problems(path):  # with the tables that stay
            raise ReloadRefusedError(_STAYS, error="\n".join(problems))

    def stays(name: str) -> bool:
        """Whether its model takes what it took."""
        was = models.of_sources.get(name)
        return was is not None and was.view.input == new.of_sources[name].view.input

    staying = frozenset(table.name for table in config.sources if table in before.sources and stays(table.name))
    leaving = [table for table in before.sources if table.name not in staying]
    if cannot := [table.name for table in leaving if not SOURCES[table.type].can_change]:
        raise ReloadRefusedError("these sources are read at start only; restart edged for them", sources=cannot)
    return Change(config, new, staying, [table.name for table in leaving])
