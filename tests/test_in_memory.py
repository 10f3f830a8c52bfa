"""Modules, tensors and loaders take the place of names: convert, save, measure, export, search, compress."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ghostsearch
from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import Architecture

QUICK = {
    "baseline_epochs": 0, "time_limit": 0.02, "cell_time_limit": 0.02, "final_time_limit": 0.1,
    "calibration_images": 32,
}  # fmt: skip


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


IMAGES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("images", [IMAGES, [(IMAGES[:32], None), (IMAGES[32:], None)], DataLoader(IMAGES, 32)])
def test_convert_takes_tensors_and_loaders_and_save_knows_the_rest(images, tmp_path):
    net = tiny()
    ghosts = ghostsearch.convert(net, "ghost(ratio=2, kernel=3)", images)
    copied = ghostsearch.convert(net, "ghost(ratio=2, kernel=3)", example=IMAGES[:1])

    def error(model):
        return (model(IMAGES) - net(IMAGES)).norm().item()

    assert error(ghosts) < error(copied), "images fit the weights"
    ghostsearch.save(ghosts, tmp_path / "ghosts")
    loaded = ghostsearch.load(tmp_path / "ghosts", model=net)
    assert torch.equal(loaded(IMAGES), ghosts(IMAGES))


def test_the_calls_of_files_still_work():
    net = tiny()
    one = ghostsearch.convert(net, Architecture.of({"2": "ghost(ratio=2, kernel=3)"}), example=IMAGES[:1])
    assert one(IMAGES).shape == (64, 4)
    with pytest.raises(GhostsearchError, match="needs images"):
        ghostsearch.convert(net, "ghost")
    with pytest.raises(GhostsearchError, match="what was converted"):
        ghostsearch.save(net, "nowhere")
    with pytest.raises(GhostsearchError, match="not both"):
        ghostsearch.search(ghostsearch.RunConfig(), trials=3)


def test_measure_and_export(tmp_path):
    net = tiny()
    record = ghostsearch.measure_model(net, IMAGES, baseline=net, time_limit=0.05)
    assert record.cost.params == sum(p.numel() for p in net.parameters())
    assert record.latencies[0].ratio == pytest.approx(1, abs=0.5)
    assert "% of the baseline's" in str(record)
    result = ghostsearch.export_model(net.train(), tmp_path / "net.onnx", IMAGES)
    assert result.max_difference < 1e-4
    assert net.training, "the caller's network stays as it is"
    with pytest.raises(GhostsearchError, match="no format ends in"):
        ghostsearch.export_model(net, tmp_path / "net.h5", IMAGES)
    with pytest.raises(GhostsearchError, match="images are a tensor"):
        ghostsearch.measure_model(net, torch.randn(3))


def test_search_of_a_module_and_its_loaders(tmp_path):
    net, labels = tiny(), torch.arange(64) % 4
    sets = [(IMAGES, labels), TensorDataset(IMAGES, labels), DataLoader(TensorDataset(IMAGES, labels), 32)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    options = dict(
        trials=2, epochs=0, final_epochs=0, objectives=("score", "macs"), out=str(tmp_path / "study"), **QUICK
    )
    study = ghostsearch.search(model=net, data=sets, **options)
    assert len(study.records) == 2
    assert study.objectives[0].label == "accuracy"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert max(map(len, str(study).splitlines())) <= 96
    assert ghostsearch.search(model=net, data=sets, **options).records == study.records, "rerun resumes"
    part = DataLoader(TensorDataset(IMAGES, labels), 32, sampler=[0, 5, 63])
    for other in (TensorDataset(IMAGES + 1, labels), part):
        with pytest.raises(GhostsearchError, match="another study"):
            ghostsearch.search(model=net, data=[*sets[:2], other], **options)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(GhostsearchError, match="another study"):
        ghostsearch.search(model=net, data=sets, **options)
    with pytest.raises(GhostsearchError, match="size, train_images is for models and data by name"):
        ghostsearch.search(model=net, data=sets, size=32, train_images=8)
    with pytest.raises(GhostsearchError, match="takes data="):
        ghostsearch.search(model=net, data=sets[0])


def test_a_split_corrected_anywhere_is_another_and_arrays_are_taken(tmp_path):
    labels = torch.arange(64) % 4
    sets = [(IMAGES, labels), (IMAGES.numpy(), labels.numpy()), TensorDataset(IMAGES, labels)]
    options = dict(trials=2, epochs=0, final_epochs=0, objectives=("score", "macs"), out=str(tmp_path / "s"), **QUICK)
    study = ghostsearch.search(model=tiny(), data=sets, **options)
    assert study.objectives[0].label == "accuracy"
    corrected = labels.clone()
    corrected[30] = 3 - corrected[30]
    for split in range(3):
        changed = [(IMAGES, corrected) if i == split else x for i, x in enumerate(sets)]
        with pytest.raises(GhostsearchError, match="another study"):
            ghostsearch.search(model=tiny(), data=changed, **options)
    with pytest.raises(GhostsearchError, match="images and targets of a split are as many, got 64 and 63"):
        ghostsearch.search(model=tiny(), data=[(IMAGES, labels[1:]), *sets[1:]], **options)


def test_compress_to_a_latency_is_one_call():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4),
    ).eval()  # fmt: skip
    images, told = torch.randn(64, 3, 24, 24), []
    options = {"trials": 2, **QUICK, "progress": lambda *what: told.append(what)}
    small, record = ghostsearch.compress(net, images, max_latency="80%", **options)
    assert isinstance(small, nn.Module)
    assert small(images).shape == (64, 4)
    assert record.latencies[0].ratio <= 0.8
    assert record.score().metric == "agreement"
    assert any(text.startswith("trials") for _, _, text in told)
    assert "% of the baseline" in record._repr_html_()
    with pytest.raises(GhostsearchError, match=r"max_latency 1%: no architecture .* nearest feasible limit is about"):
        ghostsearch.compress(net, images, max_latency="1%", **options)
    with pytest.raises(GhostsearchError, match="at least 8"):
        ghostsearch.compress(net, IMAGES[:4], max_macs="70%")


def test_a_network_of_volumes_goes_the_whole_way(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 2),
    ).eval()  # fmt: skip
    labels = torch.arange(96) % 2
    volumes = torch.randn(96, 1, 6, 5, 4) * (1 + labels.view(-1, 1, 1, 1, 1))
    splits = [(volumes[part], labels[part]) for part in (slice(0, 64), slice(64, 80), slice(80, 96))]
    study = ghostsearch.search(
        model=net, data=tuple(splits), trials=3, epochs=1, final_epochs=1, max_macs="90%", out=tmp_path / "run", **QUICK
    )
    found = next(digest for digest in study.front if digest != "baseline")
    made = ghostsearch.load(tmp_path / "run" / "models" / found, model=net)
    assert made(volumes).shape == (96, 2)
    assert ghostsearch.measure_cost(made, volumes[:1]).macs <= 0.9 * ghostsearch.measure_cost(net, volumes[:1]).macs
    ghosts = ghostsearch.convert(net, "ghost(ratio=2, kernel=3)", volumes)
    assert ghostsearch.export_model(ghosts, tmp_path / "ghosts.onnx", volumes).max_difference < 1e-4
