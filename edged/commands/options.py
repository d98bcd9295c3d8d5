"""What commands share: options, words on standard error, and the exit codes that errors become."""

import contextlib
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from edged.errors import ConfigError, EdgedError, JournalError
from edged.results import printable

_BROKEN_PIPE = 128 + 13  # SIGPIPE


class DeviceChoice(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class FormatChoice(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


DenoiserOption = Annotated[
    Path | None, typer.Option(metavar="BUNDLE", help="The denoiser that the model was calibrated with, if it was.")
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `python -m export` wrote.")]
ConfigOption = Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration, in TOML.")]
DeviceOption = Annotated[
    DeviceChoice, typer.Option(help="auto takes CUDA where it works; cuda fails where it does not.")
]
RateOption = Annotated[
    float | None, typer.Option(min=1e-6, max=0.999999, help="False-positive rate; by default the bundle's, 0.01.")
]


def with_exit_codes(command: Callable[..., int]) -> Callable[..., None]:
    """`command`, whose errors are told in a line each and end it with their exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
            if sys.stdout is not None:  # it may have been closed
                sys.stdout.flush()
        except ConfigError as error:
            for problem in error.problems:
                typer.echo(printable(problem), err=True)
            code = 2
        except JournalError as error:
            complain(str(error))
            code = 1
        except EdgedError as error:
            complain(str(error))
            code = 2
        except BrokenPipeError:  # the reader of our output has seen enough
            _silence()
            code = _BROKEN_PIPE
        except OSError as error:
            _silence()
            complain(f"{error.filename}: {error.strerror}" if error.filename else f"output: {error.strerror or error}")
            code = 1
        except KeyboardInterrupt:
            code = 130
        raise typer.Exit(code)

    return run


def _silence() -> None:
    """Lets what is left in the buffer of standard output go nowhere, lest the interpreter complains at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(message: str) -> None:
    """Says what is wrong, on standard error."""
    typer.echo(f"edged: {printable(message)}", err=True)


def complain_of_shapes(others: list[tuple[Path, str]], n: int) -> None:
    """Says which pictures are not as those of training."""
    if others:
        path, words = min(others)
        complain(f"not as those of training: {len(others)} of {n} pictures, such as {printable(str(path))} of {words}")
