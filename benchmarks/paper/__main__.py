"""The command that writes the pages: python -m benchmarks.paper [TABLES…] [OPTIONS]."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import optuna
import typer

from benchmarks.paper.options import PaperOptions
from benchmarks.paper.run import write_tables
from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_error
from ghostsearch.errors import GhostsearchError

TABLES_HELP = (
    "formulas, toy, cheap, vgg16, cifar, resnet50, small-nets, training, ghostnet-search; "
    "default: all there is input for."
)
DEFAULTS = PaperOptions()


def paper(
    tables: Annotated[list[str] | None, typer.Argument(help=TABLES_HELP)] = None,
    out: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("results"),
    given: PaperOptions = DEFAULTS,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Write the tables that the options ask for."""
    options = given.but(command=shlex.join(["python", "-m", "benchmarks.paper", *sys.argv[1:]]))
    with progress_bar(quiet) as progress:
        paths = write_tables(tables or [], out, options, progress=progress)
    say("wrote " + ", ".join(str(path) for path in paths))


app = typer.Typer(pretty_exceptions_enable=False, help=__doc__)
app.command()(o.command(paper))

if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        app(prog_name="python -m benchmarks.paper")
    except GhostsearchError as error:
        say_error(str(error))
        sys.exit(2)
