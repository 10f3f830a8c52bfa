"""Which model a study recommends: the cheapest within the drop that the user allows, among those on the front."""

from __future__ import annotations

from collections.abc import Sequence

from ghostsearch.pareto import most_volume
from ghostsearch.records import Axis, Record
from ghostsearch.study.statistics import Difference, compare, error_of_difference

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


def beaten_by(record: Record, front: Sequence[Record], axes: Sequence[Axis]) -> Record | None:
    """The first model of a front that costs no more than a record and is proven better (`statistics.compare`)."""
    score = next(axis for axis in axes if axis.is_score)
    return next((r for r in _as_cheap(record, front, axes) if _lead(r, record, score).better), None)


def not_separable_from(record: Record, front: Sequence[Record], axes: Sequence[Axis]) -> Record | None:
    """The cheapest model of a front that costs no more than a record and is not proven worse.

    A model of the front itself has such a rival where its lead may be chance; one beside the front, where that does
    not beat it.
    """
    score, cost = next(axis for axis in axes if axis.is_score), next(axis for axis in axes if not axis.is_score)
    rivals = [r for r in _as_cheap(record, front, axes) if not _lead(r, record, score).worse]
    return min(rivals, key=cost.minimised, default=None)


def _as_cheap(record: Record, front: Sequence[Record], axes: Sequence[Axis]) -> list[Record]:
    """The models of a front, scored on the same split, that cost no more than a record on any axis."""
    score, costs = next(axis for axis in axes if axis.is_score), [axis for axis in axes if not axis.is_score]
    if not costs or record.score(score.split) is None:
        return []
    others = [r for r in front if r.digest != record.digest and r.score(score.split)]
    return [r for r in others if all(axis.minimised(r) <= axis.minimised(record) for axis in costs)]


def _lead(one: Record, other: Record, score: Axis) -> Difference:
    mine, theirs = one.score(score.split), other.score(score.split)
    assert mine is not None, "only scored models are compared"
    assert theirs is not None, "only scored models are compared"
    return compare(mine, theirs, maximize=score.maximize)
