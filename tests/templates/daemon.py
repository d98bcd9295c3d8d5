"""`edged run` with a source and a sink of the tests: python -m tests.templates.daemon CONFIG."""

import sys
from pathlib import Path

from edged.service import logs
from edged.service.daemon import Daemon
from edged.sinks import SINKS
from edged.sources import SOURCES
from tests.templates import latest, slideshow

if __name__ == "__main__":
    SOURCES["slideshow"] = slideshow.TYPE
    SINKS["latest"] = latest.TYPE
    logs.configure()
    sys.exit(Daemon(Path(sys.argv[1])).run())
