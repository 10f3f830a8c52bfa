import subprocess
import sys

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.heads import set_classes
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import OWN_MODELS, example_input, known_models, load_model

TIMES_TWO = """
import torch
from torch import nn
from ghostsearch.models.input import InputSpec

def net(num_classes=5):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
    model(torch.zeros(1, 1, 6, 6))
    model.input_spec = InputSpec(6, 1, (0.5,), (0.5,))
    return model

def fixed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

def convolutional():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def headless():
    return nn.Sequential(nn.AvgPool2d(3))

def broken():
    raise RuntimeError("out of cheese")

def number():
    return 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "users_nets.py").write_text(TIMES_TWO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_nets", raising=False)
    return "users_nets"


@pytest.mark.parametrize("name", OWN_MODELS)
@pytest.mark.parametrize("classes", [None, 3])
def test_own_models_run_on_their_input(name, classes):
    loaded = load_model(f"ghostsearch:{name}", classes=classes)
    assert not loaded.module.training
    size = 64 if loaded.input.size == 224 else loaded.input.size
    with torch.no_grad():
        logits = loaded.module(example_input(InputSpec(size, loaded.input.channels), batch=2))
    expected = classes or (1000 if loaded.input.size == 224 else 10)
    assert logits.shape == (2, expected)


@pytest.mark.parametrize(
    ("spec", "size", "mean"),
    [
        ("torchvision:resnet18", 224, 0.485),
        ("torchvision:inception_v3", 299, 0.485),
        ("torchvision:fcn_resnet50", 520, 0.485),
        ("timm:mobilenetv3_small_050", 224, 0.485),
        ("timm:repghostnet_050.in1k", 224, 0.485),
        ("ghostsearch:resnet20", 32, 0.485),
    ],
)
def test_input_is_what_the_model_was_made_for(spec, size, mean):
    found = load_model(spec).input
    assert (found.size, found.mean[0]) == (size, mean)


@pytest.mark.parametrize(
    "spec",
    ["torchvision:squeezenet1_1", "torchvision:googlenet", "torchvision:mobilenet_v3_small", "timm:ghostnet_050"],
)
def test_classes_adapt_the_classifier(spec):
    loaded = load_model(spec, classes=7)
    with torch.no_grad():
        assert loaded.module(example_input(InputSpec(96))).shape == (1, 7)


def test_classes_of_a_detector():
    heads = load_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", classes=4).module.roi_heads.box_predictor
    assert (heads.cls_score.out_features, heads.bbox_pred.out_features) == (4, 4 * 4)


def test_the_seed_makes_the_weights_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (load_model("ghostsearch:digits_cnn", seed=s).module.state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_size_mean_and_std_are_options():
    found = load_model("ghostsearch:digits_cnn", size=16, mean=(0.1,), std=(0.2,)).input
    assert found == InputSpec(16, 1, (0.1,), (0.2,))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mean": (0.1, 0.2)}, "take 1 values each"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"size": -3}, "from 1 to 4096 pixels, such as 224 or 32x100; got -3"),
    ],
)
def test_bad_input_options(options, told):
    with pytest.raises(GhostsearchError, match=told):
        load_model("ghostsearch:digits_cnn", **options)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("resnet18", "nearest: torchvision:resnet18"),
        ("torchvision:resnet81", "nearest: torchvision:resnet18"),
        ("timm:rasnet50", "nearest: timm:resnet50"),
        ("timm:resnet50.nobody", "nearest: timm:resnet50."),
        ("timm:hf-hub:somebody/net", "is unknown"),
        ("ghostsearch:ghostnett", "nearest: ghostsearch:ghostnet"),
        ("torchvision:r3d_18", "takes more than one image"),
        ("torchvision:raft_small", "takes more than one image"),
        ("no_such_module:net", "importing no_such_module failed"),
        ("../../no/such/network", "neither a directory"),
    ],
)
def test_unknown_models_get_one_line(spec, told):
    with pytest.raises(GhostsearchError) as refusal:
        load_model(spec)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_users_function(user_module):
    loaded = load_model(f"{user_module}:net", classes=9)
    assert loaded.input == InputSpec(6, 1, (0.5,), (0.5,))
    assert loaded.module(example_input(loaded.input)).shape == (1, 9)


@pytest.mark.parametrize("function", ["fixed", "convolutional"])
def test_users_classifier_is_adapted(user_module, function):
    assert load_model(f"{user_module}:{function}", classes=9).module(torch.zeros(2, 3, 8, 8)).shape == (2, 9)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("broken", "failed: RuntimeError: out of cheese"),
        ("number", "must return a torch.nn.Module, got int"),
        ("absent", "has no 'absent'"),
        ("TIMES", "has no 'TIMES'"),
        ("headless", "no linear layer or convolution"),
    ],
)
def test_users_mistakes(user_module, function, told):
    with pytest.raises(GhostsearchError, match=told):
        load_model(f"{user_module}:{function}", classes=3)


def test_a_classifier_that_fits_keeps_its_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    before = model[2]
    set_classes(model, 5, torch.zeros(2, 3, 3, 3))
    assert model[2] is before


def test_completion_does_not_import_timm_for_our_names():
    code = (
        "import sys; from ghostsearch.models.load import known_models; "
        "assert known_models('ghostsearch:'); assert 'timm' not in sys.modules; assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "torchvision:resnet18" in known_models("torchvision:res")
