"""What the command lines of training and export share: how they talk, and how they end."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rich.console import Console

from edged.errors import EdgedError
from edged.results import printable
from train.errors import TrainError

_OUT_OF_MEMORY = ("allocate memory", "out of memory")


def run(program: str, out: Path, work: Callable[[Console], None]) -> int:
    """Does the work of a command; what goes wrong in a way that is known ends in a message.

    SIGTERM ends it as Ctrl-C does, so that half-written files and caches are removed.

    Args:
        program: what its messages begin with.
        out: what it writes.
        work: takes the console for messages; raises what is wrong.

    Returns:
        The exit code: 0 done, 2 something given is wrong or missing, 130 after Ctrl-C, 143 after SIGTERM.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main else None
    try:
        work(console)
    except (TrainError, EdgedError) as error:
        say(console, program, str(error))
    except OSError as error:
        say(console, program, f"{error.filename or out}: {error.strerror or error}; nothing was written")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        say(console, program, "there is not enough memory for this model; make it smaller. Nothing was written")
    except KeyboardInterrupt as error:
        say(console, program, "interrupted; nothing was written")
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    else:
        return 0
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 2


def say(console: Console, program: str, message: str) -> None:
    """Prints a message, each line behind the program's name; nothing in it can act on the terminal."""
    console.print("\n".join(f"{program}: {printable(line)}" for line in message.splitlines()), markup=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise KeyboardInterrupt(number)
