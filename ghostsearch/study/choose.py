"""Which model a study recommends: the cheapest within the drop that the user allows, among those on the front."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

import numpy as np
from numpy.typing import NDArray

from ghostsearch.pareto import most_volume
from ghostsearch.records import Axis, Record, Score
from ghostsearch.study.statistics import difference, standard_error

BASELINE, TRAINED = "baseline", "baselinetrained"
"""Digests of the baseline as given and after the finalists' training."""
INT8, FLOAT = "baselineint8", "baselinefloat"
"""Digests of the baseline in the precision that the study's other models do not have: a reference, no candidate."""
BASELINES = (BASELINE, TRAINED, INT8, FLOAT)


def longest_training(finalists: Sequence[Record]) -> float:
    """Most epochs that a finalist has had: only those are compared; 0 where none is scored."""
    return max((s.epochs for r in finalists if (s := r.score())), default=0.0)


def better_baseline(finalists: Sequence[Record], score: Axis) -> Record | None:
    """The baseline to compare with: as given or after the finalists' training, whichever scores better."""
    found = [r for r in finalists if r.digest in (BASELINE, TRAINED) and score.value(r) is not None]
    return min(found, key=score.minimised, default=None)


def recommended(
    front: Sequence[Record], finalists: Sequence[Record], axes: Sequence[Axis], max_drop: float | None
) -> str:
    """Digest of the front's cheapest model, on the first cost axis, that loses at most `max_drop` against the baseline.

    The loss is in the score's unit, on the validation images that both were scored on. Without `max_drop` it may be one
    standard error of that difference (the one-standard-error rule of Breiman et al. 1984, section 3.4.3); where no
    model keeps that, the best-scoring one is recommended. Ties go to the better score. Where nothing keeps a given
    `max_drop` it is the baseline's if that is on the front, else empty.
    """
    score = next(axis for axis in axes if axis.is_score)
    cost = next((axis for axis in axes if not axis.is_score), score)
    models = [r for r in front if r.digest not in BASELINES and score.value(r) is not None]
    baseline = better_baseline(finalists, score)
    kept = [r for r in models if baseline is None or _keeps(r, baseline, score, max_drop)]
    if kept:
        return min(kept, key=lambda r: (cost.minimised(r), score.minimised(r))).digest
    if max_drop is None and models:
        return min(models, key=lambda r: (score.minimised(r), cost.minimised(r))).digest
    return BASELINE if any(r.digest == BASELINE for r in front) else ""


def worth_finishing(
    front: Sequence[Record], baseline: Record, axes: Sequence[Axis], max_drop: float | None, count: int
) -> list[Record]:
    """At most `count` models of a front to finish, by their scores so far.

    The first half is what would be recommended, one after the other, since that is what the run is asked for: under a
    limit the best models lie where the front ends, which adds little hypervolume. The others cover most of the front.
    """
    score, asked = next(axis for axis in axes if axis.is_score), list[int]()
    left = set(range(len(front)))
    while left and len(asked) < (count + 1) // 2:
        digest = recommended([front[i] for i in sorted(left)], [baseline], axes, max_drop)
        found = [i for i in left if front[i].digest == digest]
        asked += found or [min(left, key=lambda i: score.minimised(front[i]))]
        left -= set(asked)
    points = [[axis.minimised(r) for axis in axes] for r in front]
    return [front[i] for i in most_volume(points, count, asked)]


def _keeps(record: Record, baseline: Record, score: Axis, max_drop: float | None) -> bool:
    drop = score.minimised(record) - score.minimised(baseline)
    allowed = error_of_difference(record.score(), baseline.score()) if max_drop is None else max_drop
    return drop <= allowed + 1e-12


def error_of_difference(one: Score | None, other: Score | None) -> float:
    """Standard error of the difference of two scores; paired where both say which images were right; 0 if unknown."""
    if one is None or other is None:
        return 0.0
    a, b = one.outcomes(), other.outcomes()
    if a is not None and b is not None and len(a) == len(b) > 1:
        return standard_error(a.astype(float) - b)
    return hypot(one.stderr or 0.0, other.stderr or 0.0)


def cheaper_equal(record: Record, front: Sequence[Record], axes: Sequence[Axis]) -> Record | None:
    """The cheapest model of the front that costs less than a record and is not proven to be worse.

    None also where the score does not say which images were right; the test is `statistics.difference`'s, on the images
    that both were scored on.
    """
    mine, costs = _outcomes(record), [axis for axis in axes if not axis.is_score]
    rivals = []
    for rival in front:
        theirs = _outcomes(rival)
        if mine is None or theirs is None or len(mine) != len(theirs) or not costs:
            continue
        gaps = [axis.minimised(rival) - axis.minimised(record) for axis in costs]
        if max(gaps) <= 0 > min(gaps) and not difference(mine, theirs).better:
            rivals.append(rival)
    return min(rivals, key=costs[0].minimised, default=None)


def _outcomes(record: Record) -> NDArray[np.bool_] | None:
    score = record.score()
    return score.outcomes() if score else None
