import pickle

import pytest
import torch
from safetensors.torch import save_file

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.cifar import resnet20
from ghostsearch.models.weights import load_weights, read_weights


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return resnet20().state_dict()


def wrap_nothing(state):
    return state


@pytest.mark.parametrize(
    "wrap",
    [
        wrap_nothing,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
)
def test_wrappers_and_prefixes(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "w.pt")
    model = resnet20()
    assert load_weights(model, tmp_path / "w.pt") == ()
    assert torch.equal(model.state_dict()["layer3.2.conv2.weight"], state["layer3.2.conv2.weight"])


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


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated(tmp_path, state, suffix, share):
    path = tmp_path / f"w.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(GhostsearchError, match="cannot be read; truncated"):
        read_weights(path)


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
