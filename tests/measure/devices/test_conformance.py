"""What every device keeps to; a new one is held to it by its row in the table."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ghostsearch.cli.main import app
from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.measure.devices.base import Device
from ghostsearch.measure.devices.selftest import output_difference, probe_model, self_test
from ghostsearch.measure.devices.table import DEVICES, ENTRY_POINTS, device_names, get_device, list_devices
from ghostsearch.measure.onnx_graph import quantize
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.threads import check_threads

TOLERANCE = 1e-4


def tolerance(device):
    """Float devices compute what the module computes; int8 ones come close."""
    return TOLERANCE if device.tolerance < 0.01 else device.tolerance


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    try:
        return get_device(request.param)
    except GhostsearchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def prepared(device):
    """The probe, prepared once: compiling takes seconds on some devices."""
    model, example = probe_model()
    model.train()
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_num_threads()
    with device.session(1):
        ready = device.prepare(model, example, Setting())
        yield device, ready, model, example, state, before
        ready.close()
    assert torch.get_num_threads() == before[1]


def test_outputs_equal_the_modules(prepared):
    device, ready, model, example, *_ = prepared
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(example).numpy()
    (found,) = ready.outputs()
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=tolerance(device) * np.abs(wanted).max(), rtol=0)


def test_the_model_is_untouched(prepared):
    _, ready, model, _, state, (rng, _) = prepared
    ready.run()
    assert model.training
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_model_is_lowered_once(device):
    model, example = probe_model()
    lowered = device.lowered(model, example)
    assert device.lowered(lowered, example) is lowered


def test_every_call_takes_time(prepared):
    _, ready, *_ = prepared
    times = ready.seconds(7)
    assert len(times) == 7
    assert min(times) > 0


def test_running_again_gives_the_same(prepared):
    _, ready, *_ = prepared
    first = [y.copy() for y in ready.outputs()]
    for a, b in zip(first, ready.outputs(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_thread_keeps_one_core_busy(prepared):
    device, ready, *_ = prepared
    if not device.limits_threads:
        pytest.skip("its work is not done by this process's cores")
    assert check_threads(device, [ready], 1) <= 1.35


def test_it_tells_versions_and_place(device):
    versions = device.versions()
    assert set(versions) == set(device.packages)
    assert "absent" not in versions.values()
    assert device.place()


def test_it_computes_in_what_its_name_says(device):
    assert device.computes_in(Setting(precision="float32")) == ("int8" if device.name.endswith(":int8") else "float32")


def test_unknown_precision_is_refused(device):
    with pytest.raises(GhostsearchError, match="has no precision 'int3'"):
        device.require_precision("int3")


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_memory_order_and_precision_are_options(channels_last, precision):
    model, example = probe_model()
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(example).numpy()
    ready = get_device("torch:cpu").prepare(model, example, Setting(precision=precision, channels_last=channels_last))
    (image,) = ready.inputs
    assert image.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert image.dtype == getattr(torch, precision)
    tolerance = 1e-4 if precision == "float32" else 0.05
    np.testing.assert_allclose(ready.outputs()[0], wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("name", ["onnxruntime:cpu", "torch:cpu"])
def test_nested_inputs_and_outputs(name):
    class Nested(nn.Module):
        def forward(self, batch, *, scale):
            return {"sum": batch[0] + batch[1] * scale, "first": [batch[0] * 2]}

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Nested()

        def forward(self, batch, scale):
            return self.inner(batch, scale=scale)

    a, b, scale = torch.ones(1, 3), torch.full((1, 3), 2.0), torch.tensor([3.0])
    target = get_device(name)
    outputs = target.prepare(Call(), {"batch": (a, b), "scale": scale}, Setting()).outputs()
    np.testing.assert_allclose(outputs[0], [[7, 7, 7]])
    np.testing.assert_allclose(outputs[1], [[2, 2, 2]])


def test_a_wrong_device_fails_its_self_test(monkeypatch):
    target = get_device("torch:cpu")
    prepare = type(target).prepare

    def wrong(self, model, example, options):
        ready = prepare(self, model, example, options)
        outputs = ready.outputs
        ready.outputs = lambda: tuple(y * 1.01 for y in outputs())
        return ready

    monkeypatch.setattr(type(target), "prepare", wrong)
    found = self_test("torch:cpu")
    assert not found.passed
    assert "differ" in found.detail


def test_a_device_that_breaks_fails_its_self_test(monkeypatch):
    def broken(*_):
        raise RuntimeError("board\nunplugged")

    monkeypatch.setattr(type(get_device("torch:cpu")), "session", broken)
    found = self_test("torch:cpu")
    assert not found.passed
    assert "RuntimeError: board unplugged" in found.detail


def test_self_test_of_the_default_device():
    found = self_test("onnxruntime:cpu")
    assert found.passed
    assert found.difference < TOLERANCE
    assert found.latency_s > 0
    assert output_difference(get_device("onnxruntime:cpu"), *probe_model()) < TOLERANCE


def test_self_test_of_an_absent_device_says_why():
    found = self_test("nonsense:cpu")
    assert not found.passed
    assert "no device is called" in found.detail


def test_every_device_is_listed_with_a_reason_where_it_is_absent():
    rows = {row.name: row for row in list_devices()}
    assert list(rows) == device_names()
    assert rows["onnxruntime:cpu"].available
    for row in rows.values():
        assert row.reason or row.available
        assert bool(row.versions) == row.available


@pytest.mark.parametrize(("flags", "slow"), [(set(), True), ({"avx512_vnni"}, False)])
@pytest.mark.parametrize("command", ["doctor", "devices"])
def test_a_processor_without_fast_int8_is_told_so(command, flags, slow, monkeypatch):
    monkeypatch.setattr(quantize, "processor_flags", lambda: frozenset(flags))
    said = CliRunner().invoke(app, [command], env={"COLUMNS": "200"}).output
    assert ("this processor has no fast int8 instructions" in " ".join(said.split())) == slow


def test_an_absent_runtime_answers_with_the_install_line(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'ghostsearch\[openvino\]'"):
        get_device("openvino:cpu")


class Ours(Device):
    name = "ours:here"
    packages = ()

    def check(self):
        pass

    def prepare(self, model, example, options):
        raise NotImplementedError


class Point:
    value = "elsewhere:Thing"

    def __init__(self, name, thing):
        self.name, self.thing = name, thing

    def load(self):
        return self.thing


def broken():
    raise RuntimeError("no such board")


def test_other_packages_bring_devices_by_entry_point(monkeypatch):
    points = [Point("ours:here", Ours), Point("wrong:kind", dict), Point("broken:one", broken)]
    monkeypatch.setattr("ghostsearch.usercode._installed", lambda group, _: points if group == ENTRY_POINTS else [])
    assert device_names()[-3:] == ["ours:here", "wrong:kind", "broken:one"]
    assert isinstance(get_device("ours:here"), Ours)
    with pytest.raises(GhostsearchError, match="must subclass"):
        get_device("wrong:kind")
    with pytest.raises(GhostsearchError, match="no such board"):
        get_device("broken:one")
