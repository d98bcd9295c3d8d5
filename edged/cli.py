"""The commands.

Exit codes: 0 done; 1 some items failed; 2 usage, configuration or bundle is wrong; 3 an anomaly; 141 the reader of the
output went away, as of every program in a pipe.
"""

import sys
from typing import Annotated

import typer

from edged import __version__
from edged.commands.bundles import calibrate, inspect
from edged.commands.options import complain, with_exit_codes
from edged.commands.results import labels, results
from edged.commands.running import check, init, run
from edged.commands.scoring import denoise, sample, score
from edged.commands.top import top

app = typer.Typer(
    name="edged",
    help="Anomaly detection at the edge: score pictures with a model of good parts, once or as a daemon.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    if "" in sys.argv[1:]:  # an unset variable of a script; as a path it would be the current folder
        complain("an argument is empty; give a name, or leave it out")
        sys.exit(2)
    app()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edged {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (init, run, check, score, denoise, sample, calibrate, results, labels, inspect, top):
    app.command()(with_exit_codes(command))
