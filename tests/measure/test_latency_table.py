"""The latency table, its store, its vetoes and its audit, on a real device and a small net."""

import dataclasses
import json
import random
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.audit import audit, fit_correction, random_architectures
from ghostsearch.measure.cells import CellStore, CellTime
from ghostsearch.measure.cost_table import encode
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency_table import LatencyTable
from ghostsearch.measure.layers import timed_layers
from ghostsearch.measure.profiling import Network, latency_table, profile
from ghostsearch.measure.setting import Setting
from ghostsearch.space.architecture import Architecture, Branch, SearchSpace
from ghostsearch.space.choice import KEEP
from ghostsearch.space.preset import parse_preset
from ghostsearch.surgery.sites import find_sites

PRESET = parse_preset(
    {
        "sites": [{"choices": ["ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)"]}],
        "groups": [{"widths": ["width(0.5)"]}],
    },
    "test",
)


def small():
    twins = [nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()) for _ in range(2)]
    stem = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*stem, *twins, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    torch.manual_seed(0)
    model, example = small(), torch.randn(1, 3, 24, 24)
    anatomy = find_sites(model, example)
    space, setting = PRESET.resolve(anatomy), Setting()
    directory = tmp_path_factory.mktemp("cache")
    return model, example, anatomy, space, setting, directory


@pytest.fixture(scope="module")
def table(setup):
    model, example, anatomy, space, setting, directory = setup
    return profile(
        Network(model, example, anatomy), space, CellStore("onnxruntime:cpu", setting, directory), cell_s=0.02
    )


def test_layers_come_with_what_follows_and_share_cells(setup):
    model, example, anatomy, *_ = setup
    layers = {layer.path: layer for layer in timed_layers(model, example, anatomy)}
    assert list(layers) == ["0", "3.0", "4.0", "7"]
    assert [type(f) for f in layers["3.0"].followers] == [nn.BatchNorm2d, nn.ReLU]
    assert layers["3.0"].name == layers["4.0"].name
    assert layers["7"].followers == ()


def test_a_layer_that_is_called_again_counts_with_all_its_calls():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x), self.head(x[..., ::2, ::2])

    net, example = Heads().eval(), torch.zeros(1, 3, 16, 16)
    layers = {layer.path: layer for layer in timed_layers(net, example, find_sites(net, example, include_first=True))}
    assert (layers["stem"].work, layers["head"].work) == (1, 1 + 1 / 4)


def test_every_choice_of_every_site_has_a_time(table, setup):
    space = setup[3]
    rows = {(row["site"], row["choice"]): row for row in table.rows()}
    assert set(rows) == {(path, text) for path, texts in space.sites.items() for text in texts[1:]}
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["ratio"] <= high
        assert row["latency_s"] == pytest.approx(row["baseline_s"] * row["ratio"])
        assert row["vetoed"] == (high >= 1)


def test_twins_are_timed_once(table):
    assert len({row["latency_s"] for row in table.rows() if row["choice"] == "ghost(ratio=2, kernel=3)"}) == 1


def test_a_second_profile_times_nothing(table, setup, monkeypatch):
    model, example, anatomy, space, setting, directory = setup

    def never(*args, **kwargs):
        raise AssertionError("a stored cell was timed again")

    monkeypatch.setattr("ghostsearch.measure.profiling.measure_pairs", never)
    monkeypatch.setattr("ghostsearch.measure.profiling.CellStore", partial(CellStore, directory=directory))
    network, device = Network(model, example, anatomy), "onnxruntime:cpu"
    again = latency_table(network, space, device=device, setting=setting, cell_s=0.02)
    assert again.rows() == table.rows()
    assert again.store.history == f"latency table on {device}: 0 cells timed by this search, the others before it"


@pytest.mark.parametrize("change", [{"threads": 2}, {"batch": 2}, {"channels_last": False}])
def test_another_setting_has_another_file(table, setup, change):
    directory = setup[-1]
    other = Setting(**change)
    assert CellStore("onnxruntime:cpu", other, directory).cells == {}


def test_other_versions_have_another_file(table, setup, monkeypatch):
    device = get_device("onnxruntime:cpu")
    assert CellStore(device, Setting(), setup[-1]).cells
    monkeypatch.setattr(type(device), "versions", lambda self: {"onnxruntime": "0.0.1"})
    assert CellStore(device, Setting(), setup[-1]).cells == {}


@pytest.mark.parametrize("damage", ["cut", "foreign", "version"])
def test_damaged_or_foreign_files_are_not_used_and_say_so(tmp_path, damage):
    device = get_device("onnxruntime:cpu")
    store = CellStore(device, Setting(), tmp_path)
    store.take({"x": CellTime(median_s=1.0, ratio=0.5, interval=(0.4, 0.6))})
    store.write()
    assert CellStore(device, Setting(), tmp_path).cells == store.cells
    text = store.path.read_text()
    content = json.loads(text)
    if damage == "foreign":
        content["fingerprint"]["place"] = "another processor"
    if damage == "version":
        content["version"] = 999
    store.path.write_text(text[: len(text) // 2] if damage == "cut" else json.dumps(content))
    again = CellStore(device, Setting(), tmp_path)
    assert again.cells == {}
    assert "not used" in again.note


def test_the_baseline_model_is_predicted_as_itself(table):
    assert table.predict([Architecture()]) == pytest.approx([1.0])


def test_predictions_add_up_over_sites(table, setup):
    space = setup[3]
    one, two = list(space.sites)[:2]
    text = space.sites[one][1]
    single = [Architecture.of({path: text}) for path in (one, two)]
    both = Architecture.of({one: text, two: text})
    terms = table.terms(encode(space, [*single, both]))
    assert terms[2] == pytest.approx(terms[0] + terms[1])


def test_narrower_layers_are_predicted_at_the_times_of_their_cells(table, setup):
    space = setup[3]
    narrow = Architecture.of({}, dict.fromkeys(space.groups, "width(0.5)"))
    changed = table.terms(encode(space, [narrow]))[0, 0] * table.baseline_layers_s
    cells = table.store.cells
    expected = 0.0
    for layer in table.layers:
        c, n = (x.total // 2 if x.groups else x.total for x in (layer.inputs, layer.outputs))
        baseline = cells[layer.cell(KEEP, layer.inputs.total, layer.outputs.total).key].median_s
        expected += baseline * (cells[layer.cell(KEEP, c, n).key].ratio - 1)
    assert changed == pytest.approx(expected, rel=1e-6)


def test_twins_that_share_cells_lose_channels_in_different_groups(table, setup):
    model, example, anatomy, space, *_ = setup
    one = SearchSpace({}, {"3.0": space.groups["3.0"]}, space.width_multiple)
    part = LatencyTable(model, example, anatomy, one, table.store)
    full, narrow = part.layer_seconds(encode(one, [Architecture(), Architecture.of({}, {"3.0": "width(0.5)"})]))
    cells, (first, second) = table.store.cells, [x for x in part.layers if x.path in ("3.0", "4.0")]
    ratios = narrow / full
    assert ratios[1] == pytest.approx(cells[f"{first.name} | keep | 32->16 of 32->32"].ratio)
    assert ratios[2] == pytest.approx(cells[f"{second.name} | keep | 16->32 of 32->32"].ratio)


def test_random_architectures_are_distinct_spread_and_repeatable(setup):
    space = SearchSpace({str(i): ("keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=3, kernel=3)") for i in range(12)})
    drawn = random_architectures(space, 40, seed=3)
    assert drawn == random_architectures(space, 40, seed=3)
    assert len({a.digest for a in drawn}) == 40
    assert min(len(a.sites) for a in drawn) <= 3
    assert max(len(a.sites) for a in drawn) >= 10


def test_a_random_architecture_asks_nothing_of_a_branch_that_it_drops():
    inner = dict.fromkeys("abc", ("keep", "ghost(ratio=2, kernel=3)"))
    space = SearchSpace({**inner, "end": ("keep", "drop", "skip")}, branches={"end": tuple(inner)})
    drawn = random_architectures(space, 6, seed=0)
    assert any("end" in a.sites for a in drawn)
    assert all(len(a.sites) == 1 for a in drawn if "end" in a.sites)


def test_correction_and_audit(table, setup):
    network, space = Network(*setup[:3]), setup[3]
    correction = fit_correction(table, network, count=3, model_s=0.05)
    assert table.correction == correction
    found = audit(table, network, count=4, model_s=0.05)
    assert [row.predictor for row in found.rows] == ["latency table", "MACs", "interpolation over FLOPs"]
    assert len(found.models) == 4
    measured = np.array([row["measured"] for row in found.models])
    for row in found.rows:
        predicted = np.array([m[row.predictor] for m in found.models])
        assert row.mape == pytest.approx(np.mean(np.abs(predicted - measured) / measured))
        assert row.worst == pytest.approx(np.max(np.abs(predicted - measured) / measured))
        assert -1 <= row.tau <= 1
    fitted = {a.digest for a in random_architectures(space, 3, 0)}
    assert not fitted & {row["digest"] for row in found.models}


def test_unknown_device():
    with pytest.raises(GhostsearchError, match="no device is called"):
        CellStore("toaster:cpu", Setting())


def test_codes_and_architectures_predict_the_same(table, setup):
    space, rng = setup[3], random.Random(0)
    some = [
        Architecture.of(*({name: rng.choice(texts) for name, texts in x.items()} for x in (space.sites, space.groups)))
        for _ in range(5)
    ]
    assert table.predict(some) == pytest.approx(table.predict_ratios(encode(space, some)))


def test_a_dropped_branch_takes_its_layers_seconds_away(table, setup):
    inner, end = [x.path for x in table.layers if x.path in setup[3].sites][:2]
    sites = {end: (*setup[3].sites[end], "drop"), inner: setup[3].sites[inner]}
    part = table.within(SearchSpace(sites, {}, 8, {end: (inner,)}))
    part._anatomy = dataclasses.replace(setup[2], branches=(Branch(end, (inner,)),))
    seconds = part.layer_seconds(encode(part.space, [Architecture(), Architecture.of({end: "drop"})]))
    gone = [i for i, layer in enumerate(part.layers) if layer.path in (inner, end)]
    assert not seconds[1, gone].any()
    assert np.delete(seconds[1], gone) == pytest.approx(np.delete(seconds[0], gone))
    assert part.predict([Architecture.of({end: "drop"})])[0] < 1
    assert not part.missing()


def test_a_layer_that_stays_in_float_is_timed_in_float(setup, tmp_path):
    model, example, anatomy, space, *_ = setup
    store = CellStore("onnxruntime:cpu:int8", Setting(keep_float=("3",)), tmp_path)
    layers = {x.path: x for x in LatencyTable(model, example, anatomy, space, store).layers}
    quantized = {}
    for path in ("3.0", "4.0"):
        tiny, x = layers[path].tiny(layers[path].cell(KEEP, 32, 32), 1)
        quantized[path] = b"QuantizeLinear" in store.device.lowered(tiny, x).graph
    assert quantized == {"3.0": False, "4.0": True}
    assert layers["3.0"].name != layers["4.0"].name


def test_processes_that_write_at_once_lose_no_cell(tmp_path, monkeypatch):
    """Each reads the file, adds what it has timed and writes: what another wrote meanwhile would be gone."""
    stores = [CellStore("onnxruntime:cpu", Setting(), tmp_path) for _ in range(2)]
    for name, store in zip("ab", stores, strict=True):
        store.take({name: CellTime(median_s=1, ratio=1, interval=(1, 1))})
    read = CellStore._read

    def slow(store):
        found = read(store)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(CellStore, "_read", slow)
    writers = [threading.Thread(target=store.write) for store in stores]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(CellStore("onnxruntime:cpu", Setting(), tmp_path).cells) == {"a", "b"}


def test_a_narrowed_layer_does_not_share_its_cell_with_a_whole_one_of_its_size(setup):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip
    layers = timed_layers(net, setup[1], find_sites(net, setup[1]))
    first, second = (layer for layer in layers if layer.path in ("2", "4"))
    assert (first.inputs.total, first.outputs.total) == (16, 32)
    whole, narrow = first.cell(KEEP, 16, 32), second.cell(KEEP, 16, 32)
    # Each holds its share of the time of its own layer, which are two.
    assert whole.key != narrow.key
    assert first.cell(KEEP, 8, 32).key != second.cell(KEEP, 8, 32).key


class OwnNorm(nn.BatchNorm2d):
    """A norm whose constructor takes other arguments."""

    def __init__(self, maps):
        super().__init__(maps)


def test_followers_of_any_making_are_timed_at_any_width(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), OwnNorm(16), nn.PReLU(16), nn.Conv2d(16, 8, 3), nn.PReLU()).eval()
    example = torch.randn(1, 3, 12, 12)
    anatomy = find_sites(net, example, include_first=True)
    space = parse_preset({"include_first": True, "groups": [{"widths": ["width(0.5)"]}]}, "test").resolve(anatomy)
    table = profile(Network(net, example, anatomy), space, CellStore("torch:cpu", Setting(), tmp_path), cell_s=0.01)
    assert table.complete
    layer = timed_layers(net, example, anatomy)[0]
    stack, x = layer.tiny(layer.cell(KEEP, 3, 8), 1)
    assert stack(x).shape == (1, 8, 10, 10)


def test_a_space_too_small_for_an_audit_says_so(setup):
    model, example, anatomy, _, _, directory = setup
    few = parse_preset({"sites": [{"match": "3.0", "choices": ["ghost(ratio=2, kernel=3)"]}]}, "test").resolve(anatomy)
    network = Network(model, example, anatomy)
    table = profile(network, few, CellStore("onnxruntime:cpu", Setting(), directory), cell_s=0.02)
    with pytest.raises(GhostsearchError, match=r"wants 3 architectures .* the space of 2 has 0; choose a larger"):
        audit(table, network)
