import argparse
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.models.weights import load_weights, read_weights


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Settings:
    """A class of a training script."""


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return resnet20().state_dict()


def wrap_nothing(state):
    return state


def prefixed(*prefixes):
    return lambda s: {"".join(prefixes) + k: v for k, v in s.items()}


class Averaged(nn.Module):
    """A submodule called `module`, as data-parallel and averaged models have."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner


WRAPS = {
    "nothing": wrap_nothing,
    "an epoch beside it": lambda s: {"state_dict": s, "epoch": 3},
    "a model": lambda s: {"model": s},
    "data-parallel": lambda s: {"model_state_dict": prefixed("module.")(s)},
    "compiled": prefixed("_orig_mod."),
    "compiled, then data-parallel": prefixed("module.", "_orig_mod."),
    "data-parallel, then compiled": prefixed("_orig_mod.", "module."),
    "a compiled layer": lambda s: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": prefixed("model.")(s), "pytorch-lightning_version": "2.6.6"},
    "Lightning with a loss of its own": lambda s: {
        "state_dict": {**prefixed("model.")(s), "loss.weight": torch.ones(3), "teacher.conv1.weight": torch.ones(1)}
    },
    "Lightning, compiled, data-parallel": lambda s: {"state_dict": prefixed("model.", "_orig_mod.", "module.")(s)},
    "params": lambda s: {"params": s},
    "params_ema before params": lambda s: {"params": {k: v * 0 for k, v in s.items()}, "params_ema": s},
    "ema": lambda s: {"ema": s, "step": 7},
    "net in state_dict": lambda s: {"net": {"state_dict": s}},
    "an averaged model": lambda s: {**prefixed("module.")(s), "n_averaged": torch.tensor(5)},
    "thop's counters": lambda s: {
        **s, "total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1), "conv1.total_ops": torch.zeros(1)
    },
    "an argparse namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
    "numpy numbers": lambda s: {
        "model": s, "best": np.float64(0.7), "step": np.int64(4), "f": np.float32(1), "history": np.arange(3.0)
    },
    "no counts of batches": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPS)
def test_wrappers_and_prefixes(tmp_path, state, name):
    torch.save(WRAPS[name](state), tmp_path / "w.pt")
    model = resnet20()
    assert load_weights(model, tmp_path / "w.pt") == ()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if "num_batches" not in k)


@given(st.lists(st.sampled_from(["_orig_mod.", "module.", "model.", "net."]), max_size=3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_nesting_of_prefixes_comes_off(nesting, wrapped):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    given_state = {"".join(nesting) + k: v + 1 for k, v in net.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pt"
        torch.save({"state_dict": given_state} if wrapped else given_state, path)
        fresh = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        load_weights(fresh, path)
    assert all(torch.equal(v, net.state_dict()[k] + 1) for k, v in fresh.state_dict().items())


def test_a_model_with_a_layer_called_as_a_prefix_keeps_its_names(tmp_path):
    whole = Averaged(nn.Linear(2, 3))
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    other = Averaged(nn.Linear(2, 3))
    load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other.module.weight, whole.module.weight)


def test_what_is_beside_the_weights_is_named_when_it_is_refused(tmp_path, state):
    torch.save({"state_dict": state, "config": Settings()}, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match=r"holds more than tensors \(such as .*Settings\)") as caught:
        load_weights(resnet20(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_entries_without_weights_are_named(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match="found the entries epoch, optimizer"):
        read_weights(tmp_path / "w.pt")


def test_safetensors(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    model = resnet20()
    load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_submodule_called_module_keeps_its_name(tmp_path):
    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt")) == {"module.weight", "head.weight"}


def test_malicious_pickle_does_not_run(tmp_path):
    target = tmp_path / "ran"
    torch.save({"conv1.weight": Payload(target)}, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match="could run its code"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "legacy.pt").write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(GhostsearchError, match=r"cannot be read|could run its code"):
        read_weights(tmp_path / "legacy.pt")
    assert not target.exists()


def test_whole_pickled_model(tmp_path):
    torch.save(resnet20(), tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match=r"save model\.state_dict\(\)"):
        read_weights(tmp_path / "w.pt")


def test_a_torchscript_program(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match=r"save torch\.jit\.load\(…\)\.state_dict\(\)"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated(tmp_path, state, suffix, share):
    path = tmp_path / f"w.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(GhostsearchError, match="cannot be read; truncated"):
        read_weights(path)


def test_a_text_is_no_pickle_of_more_than_tensors(tmp_path):
    (tmp_path / "notes.pt").write_text("no weights\n")
    with pytest.raises(GhostsearchError, match=r"cannot be read; truncated, or neither \.safetensors nor \.pt"):
        read_weights(tmp_path / "notes.pt")


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, torch.zeros(3)])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match="must hold named tensors"):
        read_weights(tmp_path / "w.pt")


def test_missing_file(tmp_path):
    with pytest.raises(GhostsearchError, match="no such file"):
        read_weights(tmp_path / "none.pt")


def test_values_that_are_no_numbers(tmp_path, state):
    torch.save({**state, "bn1.bias": torch.full((16,), float("nan"))}, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match=r"not finite \(bn1\.bias\)"):
        read_weights(tmp_path / "w.pt")


def test_other_model(tmp_path, state):
    wrong = {k.replace("layer3", "stage3"): v for k, v in state.items() if not k.startswith("linear")}
    torch.save(wrong, tmp_path / "w.pt")
    model = resnet20()
    before = model.state_dict()["conv1.weight"].clone()
    with pytest.raises(GhostsearchError, match=r"missing \(layer3\.0\.conv1\.weight, .*…\); .* unknown \(stage3\.0"):
        load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.state_dict()["conv1.weight"], before), "nothing is loaded by half"


def test_other_shapes(tmp_path, state):
    torch.save({**state, "conv1.weight": torch.zeros(16, 1, 3, 3)}, tmp_path / "w.pt")
    with pytest.raises(
        GhostsearchError, match=r"conv1\.weight has shape \(16, 1, 3, 3\), the model wants \(16, 3, 3, 3\)$"
    ):
        load_weights(resnet20(), tmp_path / "w.pt")


def test_other_classes_want_the_option(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(GhostsearchError, match="they are for 10 classes: add --classes 10"):
        load_weights(resnet20(7), tmp_path / "w.pt")


def test_other_classes_start_the_classifier_afresh(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    model = resnet20(7)
    classifier = model.linear.weight.clone()
    assert load_weights(model, tmp_path / "w.pt", classes=7) == ("linear.weight", "linear.bias")
    assert torch.equal(model.linear.weight, classifier)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
