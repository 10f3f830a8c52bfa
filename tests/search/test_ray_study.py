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


def test_it_goes_on_where_the_plain_engine_stopped_and_comes_to_the_same_trials(cluster, tiny, tmp_path):
    ours = search(RunConfig(**tiny(tmp_path / "ours", trials=5)))
    first = search(RunConfig(**tiny(tmp_path / "rays", trials=2)))
    rays = search(RunConfig(**tiny(tmp_path / "rays", trials=5, engine="ray")))

    def told(view):
        return [(r.digest, r.origin, r.state, [s.value for s in r.scores]) for r in view.records]

    assert told(rays) == told(ours)
    assert rays.records[:2] == first.records
    assert all(r.latencies and r.latencies[0].plain_times_s for r in rays.records if r.digest != "plain")


def test_resources_parse():
    assert resources_of(("cpu=2", "gpu=0.5", "device:x=1")) == {"cpu": 2.0, "gpu": 0.5, "device:x": 1.0}
    with pytest.raises(GhostsearchError, match=r"cpu=2,gpu=0\.5"):
        resources_of(("cpu",))
