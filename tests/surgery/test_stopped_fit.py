"""A fit that is stopped keeps its layers, and the same fit goes on to the very same weights."""

import resource
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.convert_directory import convert_and_save
from ghostsearch.models.load import load_model
from ghostsearch.models.stored import write_checkpoint
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.fit_model import ModelFit
from ghostsearch.surgery.options import Conversion
from ghostsearch.surgery.sites import find_sites
from ghostsearch.surgery.stopped_fit import StoppedFit
from tests.small_net import SmallNet

IMAGES = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
GHOST = "ghost(ratio=2, kernel=3)"


class ByValue(nn.Module):
    """The small network in a forward that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet()

    def forward(self, x):
        return self.net(x) if float(x.sum()) < 1e9 else x


@pytest.fixture
def fits(monkeypatch):
    """The paths of the layers fitted, as they are."""
    found, fit = [], ModelFit._fit

    def counted(self, place, gather):
        found.append(place.path)
        return fit(self, place, gather)

    monkeypatch.setattr(ModelFit, "_fit", counted)
    return found


def converted(model, architecture, images=IMAGES, stopped=None):
    return convert(model, architecture, example=IMAGES[:1], calibration=images.split(16), stopped=stopped).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("network", [SmallNet, ByValue])
def test_it_goes_on_after_the_last_layer(network, fits, tmp_path):
    torch.manual_seed(0)
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    paths = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    architecture = Architecture.of(dict.fromkeys(paths[1:3], GHOST), {})
    whole, layers = converted(model, architecture), list(fits)
    assert len(layers) > 2
    fits.clear()
    stopped = StoppedFit(tmp_path / "fit", lambda: len(fits) == 2)
    with pytest.raises(KeyboardInterrupt):
        converted(model, architecture, stopped=stopped)
    assert same(converted(model, architecture, stopped=StoppedFit(tmp_path / "fit", lambda: False)), whole)
    assert fits == layers, "a layer was fitted twice, or not at all"
    assert same(model.state_dict(), before)


def test_a_dropped_branchs_weights_belong_to_the_fit(fits, tmp_path):
    torch.manual_seed(0)
    model = SmallNet().eval()
    architecture = Architecture.of({"block1.1.project": "skip"}, {})
    with pytest.raises(KeyboardInterrupt):
        converted(model, architecture, stopped=StoppedFit(tmp_path / "fit", lambda: True))
    with torch.no_grad():
        model.block1[1].expand[0].weight[0] += 1
    fits.clear()
    found = converted(model, architecture, stopped=StoppedFit(tmp_path / "fit", lambda: False))
    again = list(fits)
    fits.clear()
    assert same(found, converted(model, architecture))
    assert again == fits


def test_a_width_and_reordered_channels_go_on_too(fits, tmp_path):
    torch.manual_seed(0)
    model = SmallNet().eval()
    anatomy = find_sites(model, IMAGES[:1])
    architecture = Architecture.of(
        {anatomy.sites[0].path: GHOST, anatomy.sites[-1].path: "lowrank(rank=0.5)"},
        {group.name: "width(0.5)" for group in anatomy.groups if not group.fixed},
    )
    whole, layers = converted(model, architecture), len(fits)
    for done in range(1, layers):
        fits.clear()
        stopped = StoppedFit(tmp_path / "fit", lambda done=done: len(fits) == done)
        with pytest.raises(KeyboardInterrupt):
            converted(model, architecture, stopped=stopped)
        assert same(converted(model, architecture, stopped=StoppedFit(tmp_path / "fit", lambda: False)), whole)
        assert len(fits) == layers
        (tmp_path / "fit").unlink()


@pytest.mark.parametrize("other", ["images", "weights", "architecture", "no file of ours"])
def test_what_another_fit_left_is_not_taken(other, fits, tmp_path):
    torch.manual_seed(0)
    model = SmallNet().eval()
    paths = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    architecture = Architecture.of({paths[1]: GHOST}, {})
    with pytest.raises(KeyboardInterrupt):
        converted(model, architecture, stopped=StoppedFit(tmp_path / "fit", lambda: True))
    assert len(fits) == 1
    images = IMAGES
    if other == "images":
        images = IMAGES + 0.1
    elif other == "weights":
        torch.manual_seed(1)
        model = SmallNet().eval()
    elif other == "architecture":
        architecture = Architecture.of({paths[1]: "ghost(ratio=2, kernel=1)"}, {})
    else:
        (tmp_path / "fit").write_bytes(b"spoiled")
    fits.clear()
    found = converted(model, architecture, images, StoppedFit(tmp_path / "fit", lambda: False))
    again = list(fits)
    fits.clear()
    assert same(found, converted(model, architecture, images))
    assert again == fits


def test_ctrl_c_of_a_conversion_keeps_its_layers(fits, tmp_path):
    wanted = Conversion(choice=GHOST, calibrate="digits", calibration_images=64)
    whole = weights_of(convert_and_save(digits(), tmp_path / "whole", wanted))
    layers = list(fits)
    fits.clear()

    def told(done, total, text):
        if text.startswith("fitting") and f", 2 of {len(layers)} " in text:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        convert_and_save(digits(), tmp_path / "net", wanted, progress=told)
    assert not (tmp_path / "net").exists()
    found = convert_and_save(digits(), tmp_path / "net", wanted)
    assert fits == layers
    assert same(weights_of(found), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "whole"]


def test_ctrl_c_of_a_distillation_keeps_its_steps(fits, tmp_path):
    wanted = Conversion(choice=GHOST, calibrate="digits", calibration_images=64, distill_steps=4)
    whole = weights_of(convert_and_save(digits(), tmp_path / "whole", wanted))
    told = []

    def tell(done, total, text):
        if text.startswith("distilling"):
            told.append(done)
            if told == [1, 2]:
                signal.raise_signal(signal.SIGINT)

    fits.clear()
    with pytest.raises(KeyboardInterrupt):
        convert_and_save(digits(), tmp_path / "net", wanted, progress=tell)
    layers = len(fits)
    found = convert_and_save(digits(), tmp_path / "net", wanted, progress=tell)
    # The step at work was finished, though not shown.
    assert told[:3] == [1, 2, 4]
    assert len(fits) == layers
    assert same(weights_of(found), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "whole"]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_finished_fit_is_kept_where_distillation_follows(steps, fits, tmp_path):
    torch.manual_seed(0)
    architecture = Architecture.of({"block1.0.0": GHOST}, {})
    stopped = StoppedFit(tmp_path / "fit", lambda: False, more=steps > 0)
    convert(
        SmallNet(), architecture, example=IMAGES[:1], calibration=IMAGES.split(16), distill_steps=steps, stopped=stopped
    )
    assert (tmp_path / "fit").exists() == (steps > 0)


def digits():
    return load_model("ghostsearch:digits_cnn", seed=0)


def weights_of(table):
    return load_file(f"{table['out']}/weights.safetensors")


def test_a_full_disk_is_told_in_a_line(tmp_path):
    file = tmp_path / "fit.steps"
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
        with pytest.raises(GhostsearchError, match="cannot be written"):
            write_checkpoint({"weights": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())
