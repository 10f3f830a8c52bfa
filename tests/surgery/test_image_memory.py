"""However many images a fit is made from, it holds few of them at a time."""

import gc

import pytest
import torch
from torch import Tensor

from ghostsearch.fits.problem import FitSettings
from ghostsearch.graph.batches import ReadBatches
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.stopped_fit import StoppedFit
from tests.small_net import SmallNet

SHAPE = (1, 10, 9)
BATCH = 4


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """Those of other tests are not looked through at each access: it would take minutes."""
    gc.collect()
    gc.freeze()


class Images:
    """A set that looks, at each access, how many of its images there are in memory."""

    def __init__(self) -> None:
        self.most = self.read = 0

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, None]:
        self.read += len(positions)
        alive = [t for t in gc.get_objects() if isinstance(t, Tensor) and tuple(t.shape[1:]) == SHAPE]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        self.most = max(self.most, sum(held.values()) // (4 * torch.Size(SHAPE).numel()))
        return torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(p)) for p in positions]), None

    def batches(self, count: int) -> ReadBatches:
        return ReadBatches(self, [range(i, i + BATCH) for i in range(0, count, BATCH)])


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("sites", [{"block1.0.0": "ghost(ratio=2, kernel=3)"}, {"stem.0": "lowrank(rank=0.5)"}, {}])
def test_images_are_read_as_they_are_needed(sites, steps, tmp_path):
    torch.manual_seed(0)
    net, example = SmallNet().eval(), torch.randn(1, *SHAPE)
    groups = {} if sites else {"stem.0": "width(0.5)"}

    def fitted(calibration, memory: int) -> dict[str, Tensor]:
        # A fit that is kept looks at its images too.
        stopped = StoppedFit(tmp_path / "fit", lambda: False)
        return convert(
            net, Architecture.of(sites, groups), example=example, calibration=calibration, distill_steps=steps,
            settings=FitSettings(memory_bytes=memory), stopped=stopped,
        ).state_dict()  # fmt: skip

    read, kept = Images(), Images()
    found = fitted(read.batches(800), 2**16)
    assert read.most < 200
    same = fitted(list(Images().batches(800)), 2**16)
    assert all(torch.equal(found[name], same[name]) for name in same)
    fitted(kept.batches(800), 2**30)
    assert kept.read < read.read, "with room, each image is read once"
