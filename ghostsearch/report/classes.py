"""Which classes lose for the speed: the chosen model's test accuracy on each class beside the baseline's."""

from __future__ import annotations

from dataclasses import dataclass

from ghostsearch.records import StudyView
from ghostsearch.report.outcome import best_baseline
from ghostsearch.units import score_text

SHOWN = 20
"""Classes in the table: those that lose most."""


@dataclass(frozen=True)
class ClassTable:
    """The chosen model's change on each class, the largest loss first."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    """Balanced accuracies, and how many classes are not in the table."""


def class_table(view: StudyView) -> ClassTable | None:
    """The classes that the chosen model loses most on, on the test split; None where it is not known for each class."""
    model, baseline = view.record(view.chosen), best_baseline(view, "test")
    scores = [record.score("test") if record else None for record in (baseline, model)]
    if baseline is model or not all(score and len(score.by_class) > 1 for score in scores):
        return None
    before, after = (score.by_class for score in scores if score)
    both = [name for name in before if name in after]
    changes = {name: _share(after[name]) - _share(before[name]) for name in both}
    order = sorted(both, key=changes.__getitem__)
    rows = [
        (name, str(before[name][1]), *(score_text(_share(of[name]), "accuracy") for of in (before, after)),
         f"{100 * changes[name]:+.1f} ± {100 * _error(before[name], after[name]):.1f} points")
        for name in order[:SHOWN]
    ]  # fmt: skip
    worse, better = (sum(sign * c > 0 for c in changes.values()) for sign in (-1, 1))
    balanced = [score_text(sum(map(_share, of.values())) / len(of), "accuracy") for of in (after, before)]
    note = (
        f"Balanced accuracy: {balanced[0]}, baseline {balanced[1]}. "
        f"{worse} of {len(both)} classes lose, {better} gain; "
        + ("the largest losses are shown" if len(both) > SHOWN else "the largest loss comes first")
        + ". Standard errors as of independent samples; those of the same images are smaller."
    )
    return ClassTable(("class", "test images", "baseline", view.chosen, "change"), tuple(rows), note)


def _share(count: tuple[int, int]) -> float:
    return count[0] / count[1]


def _error(*counts: tuple[int, int]) -> float:
    """Standard error of a difference of shares; a class's share is drawn in by one right and one wrong image."""
    smooth = [((right + 1) / (images + 2), images) for right, images in counts]
    return float(sum(p * (1 - p) / images for p, images in smooth) ** 0.5)
