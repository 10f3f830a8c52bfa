"""Commands about a study: search, solve, report."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import note, out, progress_bar, say, say_json, show_table, typed
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import write_text
from ghostsearch.records import Axis
from ghostsearch.report.live import served
from ghostsearch.report.outcome import export_command
from ghostsearch.space.limits import CostLimits
from ghostsearch.study.config import RunConfig, configure
from ghostsearch.study.recommendation import BASELINE
from ghostsearch.units import with_prefix
from ghostsearch.usercode import leave_for

if TYPE_CHECKING:
    from ghostsearch.records import StudyView
    from ghostsearch.study.solve import Answer

WRITTEN = {
    "report.html": "the page to look at",
    "report.md": "the same for a pull request",
    "front.csv": "the front",
    "trials.csv": "every trial",
    "study.db": "the Optuna study",
    "models": "the front's models, ready to load",
}
"""What a search leaves in its directory for people."""


DEFAULTS, LIMITS = RunConfig(), CostLimits()
Config = Annotated[Path | None, typer.Option(help="A run.yaml to start from; options given here override it.")]


Watched = Annotated[
    bool, typer.Option("--watch", help="Serve the growing report on this machine (127.0.0.1) while the search runs.")
]
Forecast = Annotated[
    bool, typer.Option("--plan", help="Print the expected minutes and memory per stage; change nothing.")
]


def run_search(
    config: Config = None, plan: Forecast = False, watch: Watched = False, run: RunConfig = DEFAULTS,
    shown: o.Output = o.OUTPUT,
) -> None:  # fmt: skip
    """Search which layers to keep, replace, narrow or drop; ends with a Pareto front.

    Without arguments: the quick start on scikit-learn's digits, under five minutes on two cores.
    Rerun the same command to resume a stopped or killed run.

    Example: [bold]ghostsearch search --model torchvision:resnet18 --data folder:images --device onnxruntime:cpu
    --max-latency 60% --trials 40 --epochs 1 --out results/mine[/bold]
    """
    from ghostsearch.study.directory import claimed
    from ghostsearch.study.run import search

    given = {name: getattr(run, name) for name in run.model_fields_set}
    if plan:
        _forecast(configure(given, config), shown)
        return
    with ExitStack() as beside:
        wanted = beside.enter_context(claimed(configure(given, config)))
        if watch:
            note(f"live report: {beside.enter_context(served(Path(wanted.out)))}")
        progress = beside.enter_context(progress_bar(shown.silent))
        view = search(wanted, progress=progress, live=watch)
    if shown.as_json:
        say_json(view.model_dump(mode="json"))
        return
    folder = Path(view.directory)
    written = [f"  {folder / name}  {what}" for name, what in WRITTEN.items() if (folder / name).exists()]
    _show(view, folder, written)


def _forecast(run: RunConfig, shown: o.Output) -> None:
    from ghostsearch.study.forecast import plan_stages

    stages = plan_stages(run)
    if shown.as_json:
        say_json({name: asdict(stage) for name, stage in stages.items()})
        return
    rows = [[name, f"{s.minutes:.1f}", with_prefix(s.memory_bytes, "B")] for name, s in stages.items()]
    rows.append(["total", f"{sum(s.minutes for s in stages.values()):.1f}", rows[-1][-1]])
    columns = ["stage", "minutes", "memory"]
    show_table("expected on this machine, from one measured step of each stage", columns, rows)
    say("next: the same command without --plan")


def solve(
    directory: Annotated[Path, typer.Argument(help="A study directory with a candidate table.", show_default=False)],
    limits: CostLimits = LIMITS,
    count: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the first answer as an architecture file.")] = None,
    shown: o.Printed = o.PRINTED,
) -> None:
    """Find architectures that meet a budget from a study's candidate table alone; nothing is trained.

    Under --max-memory the best answers are built, to count their peak. Finalists of the study that meet it were
    measured, so they come first.

    Example: [bold]ghostsearch solve results/mine --max-latency 60%[/bold]
    """
    from ghostsearch.study.solve import measured_answers, solve_study

    axes, measured = measured_answers(directory, limits)
    answers: list[Answer] = []
    try:
        answers = solve_study(directory, limits.cost_texts(), count=count)
    except GhostsearchError as error:
        if not measured:
            raise
        note(f"the candidate table has no answer ({error}), but the study has measured models")
    if out:
        best = measured[0].architecture if measured else answers[0].architecture
        write_text(out, json.dumps(best.to_dict(), indent=1) + "\n")
    if shown.as_json:
        found = [
            {"architecture": r.architecture.to_dict(), "measured": {axis.name: axis.value(r) for axis in axes}}
            for r in measured
        ]
        predicted = [
            {"architecture": a.architecture.to_dict(), "loss": a.loss, "predicted": a.resources} for a in answers
        ]
        say_json([*found, *predicted])
        return
    if measured:
        rows = [[r.digest, *(axis.text(axis.value(r)) for axis in axes)] for r in measured]
        show_table(f"{directory}: measured", ["model", *(axis.label for axis in axes)], rows)
        say("next: ghostsearch choose, with the same limits, takes one of them")
    if not answers:
        return
    columns = [Axis.of_column(column) for column in answers[0].resources]
    rows = [[a.architecture.digest, f"{a.loss:.4g}", *(x.text(a.resources[x.name]) for x in columns)] for a in answers]
    header = ["model", "predicted loss", *(x.label for x in columns)]
    show_table(f"{directory}: predicted from the candidate table", header, rows)
    say("next: the same with --out best.json, then ghostsearch convert MODEL --architecture best.json --out DIR")


def report(
    directory: Annotated[Path, typer.Argument(help="A study directory.", show_default=False)],
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another study to set beside the first; repeatable.")
    ] = None,
    shown: o.Printed = o.PRINTED,
) -> None:
    """Write the Pareto report of a study again: one HTML page, a Markdown page with pictures, a table in the terminal.

    Example: [bold]ghostsearch report results/mine[/bold]
    """
    from ghostsearch.report.comparison import write_comparison
    from ghostsearch.report.page import write_report
    from ghostsearch.study.directory import load_study

    view = load_study(directory)
    others = [load_study(other) for other in compare or ()]
    page, changes = write_comparison([view, *others], directory) if others else (write_report(view, directory), [])
    if shown.as_json:
        say_json(view.model_dump(mode="json") | {"page": str(page), "changes": changes})
        return
    if others:
        rows = [[name, *cells] for name, cells in changes]
        show_table(f"changes from {directory}", ["", *map(str, compare or ())], rows, "in brackets: 95 % interval")
    _show(view, directory, [f"  {page}"])


def _show(view: StudyView, folder: Path, written: list[str]) -> None:
    """The front, the files written, the result in a sentence, and what to type next."""
    from ghostsearch.report.headline import sentences
    from ghostsearch.report.tables import front_table

    out.print(front_table(view))
    for line in (*written, *sentences(view), _next_step(view, folder)):
        say(line)


def _next_step(view: StudyView, folder: Path) -> str:
    """What to type once a front has been looked at."""
    chosen = folder / "models" / view.chosen
    if view.chosen in ("", BASELINE) or not chosen.is_dir():
        longer = " --time-budget T" if view.config.get("time_budget") else ""
        # Else a study that was moved, or is looked at from elsewhere, would begin again where its file says.
        moved = Path(view.config["out"]).resolve() != folder.resolve()
        run = typed(folder / "run.yaml") + f" --out {typed(folder)}" * moved
        return f"next: ghostsearch search --config {run} --trials N{longer}   adds trials"
    model = typed(chosen) + leave_for(str(view.config.get("model", "")))
    return f"next: ghostsearch finetune {model} --data … --out DIR   or   {export_command(view, view.chosen)}"
