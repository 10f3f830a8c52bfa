"""Commands about a study: search, candidates, solve, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import human, milliseconds, out, progress_bar, say, say_json, show_table
from ghostsearch.errors import GhostsearchError
from ghostsearch.search.config import RunConfig

SEARCH_HELP = """Search each layer's conv-vs-ghost choice, ratio, kernel and width for the device; end with a Pareto front.

Without arguments: the quick start on scikit-learn's digits, under five minutes on two cores.
The same command goes on where a stopped or killed run ended.

Example: [bold]ghostsearch search --model torchvision:resnet18 --data folder:images --device onnxruntime:cpu
--space ghost --max-latency 60% --trials 40 --epochs 1 --out results/mine[/bold]
"""


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("search", help=SEARCH_HELP)(o.command_from(RunConfig, run_search))
    app.command("candidates")(candidates)
    app.command("solve")(solve)
    app.command("report")(report)


def run_search(given: dict[str, Any]) -> None:
    """Run or resume the study that the options (and --config) describe, then show its front."""
    from ghostsearch.report.tables import front_table
    from ghostsearch.search.config import configure
    from ghostsearch.search.run import search

    as_json, quiet = given.pop("json", False), given.pop("quiet", False)
    config = configure(given)
    with progress_bar(quiet or as_json) as progress:
        view = search(config, progress=progress)
    if as_json:
        say_json(view.model_dump(mode="json"))
        return
    from ghostsearch.report.headline import headline

    out.print(front_table(view))
    folder = Path(view.directory)
    for name, what in (
        ("report.html", "the page to look at"), ("report.md", "the same for a pull request"), ("front.csv", "the front"),
        ("trials.csv", "every trial"), ("study.db", "the Optuna study"), ("models", "the front's models, ready to load"),
    ):  # fmt: skip
        if (folder / name).exists():
            say(f"  {folder / name}  [dim]{what}[/dim]")
    say(headline(view))
