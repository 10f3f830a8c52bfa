"""The audit of a search's own latency table: every trial that was timed counts, whatever became of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from ghostsearch.records import Latency, Record
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.evidence import evidence
from ghostsearch.study.plan import Plan

DEVICE = "onnxruntime:cpu"
GHOST = "ghost(ratio=2, kernel=3)"
SPACE = SearchSpace({"a": ("keep", GHOST), "b": ("keep", GHOST)}, {"g": ("width(1)", "width(0.5)")})


def trial(digest, sites, state, ratio):
    latency = Latency(device=DEVICE, threads=1, batch=1, times_s=(ratio,), baseline_times_s=(1.0,))
    return Record(
        number=0, digest=digest, origin="sampler", state=state, sites=sites, latencies=(latency,) if ratio else ()
    )  # fmt: skip


def test_trials_that_their_latency_ruled_out_are_audited_too(tmp_path):
    costs = SimpleNamespace(
        predict_codes=lambda _, codes: (codes.sum(1), 1.0 - 0.1 * codes.sum(1)), baseline=SimpleNamespace(macs=1.0)
    )
    table = SimpleNamespace(
        complete=True, space=SPACE, costs=costs, predict_ratios=lambda codes: 1 - 0.2 * codes.sum(1), layers=(),
        layer_seconds=lambda codes: np.zeros((len(codes), 0)),
    )  # fmt: skip
    records = [
        trial("baseline", {}, "complete", 1.0), trial("x", {"a": GHOST}, "complete", 0.8),
        trial("y", {"b": GHOST}, "pruned", 1.6), trial("z", {"a": GHOST, "b": GHOST}, "complete", 0.6),
        trial("f", {"a": GHOST, "b": GHOST}, "failed", 0.6), trial("n", {}, "pruned", 0.0),
    ]  # fmt: skip
    plan = Plan(SimpleNamespace(setup=None, tables={DEVICE: table}), SPACE, (), None, ())
    predicted, _ = evidence(plan, records, [], tmp_path)["audit"]
    assert (predicted["predictor"], predicted["models"]) == ("latency table", 4)
    # Predicted 0.8, 0.8, 0.6 and 0.6: the pruned one took twice as long.
    assert predicted["worst"] == pytest.approx(0.5)
