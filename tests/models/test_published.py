"""Published weights by name, from caches that the tests fill; nothing is downloaded."""

from __future__ import annotations

import pytest
import torch

from ghostsearch.errors import GhostsearchError, GhostsearchWarning
from ghostsearch.models.load import load_model
from ghostsearch.models.published import is_name, timm_weights, torchvision_weights


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """Empty caches of torch and of the hub, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    import huggingface_hub.constants
    import torch.hub

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def no_network(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    return tmp_path


def fill(torch_home, name, build):
    """The file that torchvision's loader would have downloaded, with random weights."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    torch.manual_seed(4)
    state = build().state_dict()
    folder = torch_home / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / weights.url.rpartition("/")[2])
    return weights, state


def test_default_weights_bring_classes_and_preprocessing(torch_home):
    from torchvision.models import mobilenet_v3_small

    weights, state = fill(torch_home, "mobilenet_v3_small", mobilenet_v3_small)
    for name in ("default", "IMAGENET1K_V1"):
        loaded = load_model("torchvision:mobilenet_v3_small", weights=name)
        assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items())
        assert loaded.weights == "IMAGENET1K_V1"
        assert loaded.categories == tuple(weights.meta["categories"])
        assert (loaded.input.size, loaded.input.shorter_side, loaded.input.interpolation) == (224, 256, "bilinear")
        assert loaded.input.mean == tuple(weights.transforms().mean)


def test_other_classes_start_the_classifier_afresh(torch_home):
    from torchvision.models import resnet18

    _, state = fill(torch_home, "resnet18", resnet18)
    loaded = load_model("torchvision:resnet18", weights="default", classes=7)
    assert loaded.fresh == ("fc.weight", "fc.bias")
    assert loaded.categories == ()
    assert torch.equal(loaded.module.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("name", ["googlenet", "fcn_resnet50", "vit_b_16", "ssdlite320_mobilenet_v3_large"])
def test_weights_fit_the_network_that_torchvision_builds_for_them(torch_home, name):
    from torchvision import models

    def build():
        options = {"weights": None}
        if name == "googlenet":
            options |= {"init_weights": False, "aux_logits": True}
        if name == "fcn_resnet50":
            options |= {"aux_loss": True}
        return models.get_model(name, **options, **({"weights_backbone": None} if name[:2] in ("fc", "ss") else {}))

    fill(torch_home, name, build)
    loaded = load_model(f"torchvision:{name}", weights="default")
    if name == "googlenet":
        assert loaded.module.transform_input, "its weights were trained behind it"
    if name.startswith("ssd"):
        assert (loaded.input.mean, loaded.input.std) == ((0.0,) * 3, (1.0,) * 3), "detectors normalise by themselves"


def test_without_network_it_is_said_first_and_refused_in_one_line(torch_home):
    with (
        pytest.warns(GhostsearchWarning, match=r"downloads weights IMAGENET1K_V1 \(44\.7 MB\) .*; cached at "),
        pytest.raises(GhostsearchError, match=r"not cached and cannot be downloaded .*no network.*--weights") as told,
    ):
        load_model("torchvision:resnet18", weights="default")
    assert "\n" not in str(told.value)
    assert not list(torch_home.glob("hub/checkpoints/*.pth"))


def test_a_damaged_cache_is_named(torch_home):
    weights = torchvision_weights("resnet18", "default")
    weights.file.parent.mkdir(parents=True)
    weights.file.write_bytes(b"half a fi")
    with pytest.raises(GhostsearchError, match=r"cannot be read .*; delete the file"):
        load_model("torchvision:resnet18", weights="default")


def test_nothing_is_fetched_unless_weights_are_named(torch_home, recwarn):
    load_model("torchvision:mobilenet_v3_small")
    assert not [w for w in recwarn if issubclass(w.category, GhostsearchWarning)]
    assert not list(torch_home.rglob("*.pth"))


@pytest.mark.parametrize(
    ("spec", "weights", "said"),
    [
        ("torchvision:resnet18", "IMAGENET1K_V9", "has default, IMAGENET1K_V1"),
        ("torchvision:resnet81", "default", "nearest: torchvision:resnet18"),
        ("ghostsearch:resnet20", "default", "only torchvision: and timm: models"),
        ("timm:resnet18", "a9_in1k", "neither a file nor published for timm:resnet18"),
        ("torchvision:resnet18", "missing.pth", "no such file"),
    ],
)
def test_unknown_weights_get_one_line(torch_home, spec, weights, said):
    with pytest.raises(GhostsearchError, match=said) as caught:
        load_model(spec, weights=weights)
    assert "\n" not in str(caught.value)


def test_names_and_files_are_told_apart(tmp_path):
    (tmp_path / "default").touch()
    assert [is_name(t) for t in ("default", "IMAGENET1K_V1", "a1_in1k")] == [True] * 3
    assert [is_name(t) for t in ("w.pt", "x/default", "W.SAFETENSORS", tmp_path / "default")] == [False] * 4


def test_timm_weights_come_from_the_hubs_cache(torch_home):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    config = timm.get_pretrained_cfg("mobilenetv3_small_050")
    folder = torch_home / "hub" / f"models--{config.hf_hub_id.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
    for name in ("default", config.tag):
        loaded = load_model("timm:mobilenetv3_small_050", weights=name)
        assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items())
        assert loaded.weights == config.tag
        assert len(loaded.categories) == 1000
        assert loaded.input.interpolation == config.interpolation
        assert loaded.input.shorter_side == int(224 / config.crop_pct)


def test_a_hub_that_cannot_be_reached_is_not_tried_again_and_again(torch_home, monkeypatch):
    pytest.importorskip("timm")
    import huggingface_hub

    def never(*_, **__):
        raise AssertionError("it would retry for most of a minute")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    with (
        pytest.warns(GhostsearchWarning, match="downloads weights"),
        pytest.raises(GhostsearchError, match=r"cannot be downloaded \(URLError: .*refused"),
    ):
        load_model("timm:resnet18", weights="default")


def test_timm_without_network_is_refused_in_one_line(torch_home):
    pytest.importorskip("timm")
    assert not timm_weights("resnet18", "default").cached
    with (
        pytest.warns(GhostsearchWarning, match=r"downloads weights a1_in1k \(46\.\d MB\)"),
        pytest.raises(GhostsearchError, match=r"not cached and cannot be downloaded") as told,
    ):
        load_model("timm:resnet18", weights="default")
    assert "\n" not in str(told.value)


def test_a_file_in_the_place_of_a_model_says_what_to_do(tmp_path):
    for name, said in (
        ("resnet18.pth", "--weights"),
        ("net.onnx", r"can be timed \(measure, check, compare\)"),
        ("x.txt", "not a model"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(GhostsearchError, match=said):
            load_model(str(tmp_path / name))
