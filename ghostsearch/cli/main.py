"""The `ghostsearch` command: puts the subcommands together and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer

from ghostsearch.cli import check, choose, compare, device, latency, model, study, train
from ghostsearch.cli.bash import whole_words
from ghostsearch.cli.options import command
from ghostsearch.cli.terminal import say_error, warning_printer
from ghostsearch.errors import GhostsearchError
from ghostsearch.options import in_words
from ghostsearch.version import VERSION

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for an unknown option or command too; it exports this one of its subclasses."""

app = typer.Typer(
    name="ghostsearch",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]ghostsearch search[/bold]: no arguments, under five minutes, on scikit-learn's digits.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ghostsearch {VERSION}")
        raise typer.Exit


@app.callback()
def ghostsearch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make convolutional networks cheaper for the device they will run on.

    Three daily jobs: [bold]convert[/bold] an existing network, [bold]search[/bold] under a latency budget, and make a
    Pareto [bold]report[/bold] of it.
    """


COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": model.inspect_model,
    "convert": model.convert_model,
    "measure": model.measure_model,
    "export": model.export_model,
    "search": study.run_search,
    "solve": study.solve,
    "report": study.report,
    "choose": choose.choose,
    "check": check.check,
    "finetune": train.finetune,
    "train": train.train,
    "compare": compare.compare,
    "devices": device.devices,
    "doctor": device.doctor,
    "profile": latency.profile,
    "audit": latency.audit,
}
for name, function in COMMANDS.items():
    app.command(name)(command(function))


def _given(error: Any, words: Sequence[str]) -> str:
    """The value of the option that a usage error is about, as it stands on the command line, in words."""
    for name in getattr(getattr(error, "param", None), "opts", ()):
        for word, after in pairwise((*words, "")):
            if word == name or word.startswith(f"{name}="):
                return f", got {(after if word == name else word.partition('=')[2])[:60]!r}"
    return ""


def main() -> None:
    """Run the command line; every foreseen mistake ends in one line on standard error and exit code 2."""
    # Ray sends usage statistics by default, and this tool sends nothing anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Threads of OpenMP (torch) that spin while they wait for each other starve on cores that others use too: two fits
    # on two cores took 70 s each instead of 7. Spinning for microseconds keeps most of a quiet machine's pace.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # What libraries say to their own developers is not for the users of this command.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.showwarning = warning_printer()
    try:
        with whole_words():
            sys.exit(app(sys.argv[1:] or ["--help"], prog_name="ghostsearch", standalone_mode=False))
    except GhostsearchError as error:
        say_error(str(error))
        sys.exit(2)
    except USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "ghostsearch"
        message = in_words(error.format_message()).rstrip(".")
        say_error(f"{message}{_given(error, sys.argv)}; '{command} --help' explains")
        sys.exit(2)
    except typer.Abort:
        # Ctrl-C before the command itself could begin.
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (such as `| head`): nobody is left to read.
        sys.stderr.close()
        sys.exit(1)
