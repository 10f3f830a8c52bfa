"""Peak activation memory as an objective and as a limit."""

import pytest

from ghostsearch.measure.cost import measure_cost
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.bench import open_bench
from ghostsearch.study.config import configure
from ghostsearch.study.trial import Draft, run_trial


@pytest.fixture(scope="module")
def bench(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("memory") / "run"
    opened = open_bench(configure(tiny(out, objectives=["score", "memory"], max_memory="90%", calibration_images=0)))
    opened.baseline.module.eval()
    return opened


def test_the_limit_is_a_share_of_the_baseline_models_peak(bench):
    baseline = measure_cost(bench.baseline.module, bench.example).peak_memory_bytes
    (memory,) = (o for o in bench.objectives if o.name == "peak_memory_bytes")
    assert (memory.limit, memory.unit, memory.maximize) == (pytest.approx(0.9 * baseline), "B", False)


def test_a_trial_over_the_limit_is_pruned_and_one_below_it_completes(bench):
    ghosts = Architecture.of(dict.fromkeys(bench.space.sites, "ghost(ratio=2, kernel=3)"))
    narrow = Architecture.of({}, dict.fromkeys(bench.space.groups, "width(0.5)"))
    over, below = (measure_cost(bench.convert(a), bench.example).peak_memory_bytes for a in (ghosts, narrow))
    limit = next(o.limit for o in bench.objectives if o.name == "peak_memory_bytes")
    assert below <= limit < over  # maps are concatenated, so a ghost convolution needs no less
    pruned, _ = run_trial(bench, Draft(1, ghosts, "uniform"), [])
    assert pruned.state == "pruned"
    assert pruned.reason.startswith("memory")
    assert "over the limit" in pruned.reason
    complete, _ = run_trial(bench, Draft(2, narrow, "uniform"), [])
    assert complete.state == "complete"
    assert complete.cost.peak_memory_bytes == below
