"""The same study through Ray: same architectures as in one process, records whole, devices serialised."""

import pytest
import ray

from ghostsearch.errors import GhostsearchError
from ghostsearch.search.config import RunConfig
from ghostsearch.search.ray_study import device_resource, resources_of
from ghostsearch.search.run import search


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=1, resources={device_resource("onnxruntime:cpu"): 1}, include_dashboard=False,
             log_to_driver=False, configure_logging=False)  # fmt: skip
    yield
    ray.shutdown()


def test_one_worker_proposes_and_scores_what_the_plain_engine_does(cluster, tiny, tmp_path):
    ours = search(RunConfig(**tiny(tmp_path / "ours", trials=6)))
    rays = search(RunConfig(**tiny(tmp_path / "rays", trials=6, engine="ray")))

    def told(view):
        return [(r.digest, r.origin, r.state, [s.value for s in r.scores]) for r in view.records]

    assert told(rays) == told(ours)
    assert all(r.latencies and r.latencies[0].plain_times_s for r in rays.records if r.digest != "plain")


def test_it_goes_on_where_another_engine_stopped(cluster, tiny, tmp_path):
    first = search(RunConfig(**tiny(tmp_path / "run", trials=4)))
    second = search(RunConfig(**tiny(tmp_path / "run", trials=6, engine="ray")))
    assert second.records[:4] == first.records
    assert len({r.digest for r in second.records}) == len(second.records) == 6


def test_resources_parse():
    assert resources_of(("cpu=2", "gpu=0.5", "device:x=1")) == {"cpu": 2.0, "gpu": 0.5, "device:x": 1.0}
    with pytest.raises(GhostsearchError, match=r"cpu=2,gpu=0\.5"):
        resources_of(("cpu",))
