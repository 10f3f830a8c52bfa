import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.models.input import InputSpec
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import load, load_baseline, load_directory, save
from ghostsearch.surgery.sites import find_sites

BUILDERS = (
    ("ghostsearch:resnet20", "ghost_width"),
    ("torchvision:resnet18", "ghost_width"),
    ("torchvision:googlenet", "ghost"),
    ("torchvision:shufflenet_v2_x0_5", "ghost"),
    ("torchvision:efficientnet_b0", "ghost"),
    ("torchvision:squeezenet1_1", "ghost"),
    ("torchvision:lraspp_mobilenet_v3_large", "ghost"),
)


RGB = {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
HUGE = {"model": "torchvision:vit_h_14", "classes": None, "size": 224, **RGB}


def randomised(module: nn.Module) -> nn.Module:
    """Statistics and scales away from their initial values, so that forgetting one shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point() and not name.endswith("weight"):
                value.add_(torch.rand(value.shape, generator=generator) * 0.1)
    return module


def mixed_architecture(loaded: LoadedModel, preset: str) -> Architecture:
    """Every site and group takes one of its choices in turn."""
    space = load_preset(preset).resolve(find_sites(loaded.module, example_input(loaded.input)))
    return space.architecture(
        {path: options[i % len(options)] for i, (path, options) in enumerate(space.sites.items())},
        {name: options[i % len(options)] for i, (name, options) in enumerate(space.groups.items())},
    )


def converted(loaded: LoadedModel, architecture: Architecture) -> nn.Module:
    return randomised(convert(loaded.module, architecture, example=example_input(loaded.input))).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted digits network on disk; tests work on copies."""
    loaded = load_model("ghostsearch:digits_cnn", classes=10)
    architecture = mixed_architecture(loaded, "ghost")
    return save(
        converted(loaded, architecture), tmp_path_factory.mktemp("saved") / "model", source=loaded,
        architecture=architecture,
    )  # fmt: skip


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "model")


def edit(directory: Path, **changes: Any) -> None:
    """Change keys of architecture.json; `source.size`-like keys are spelled `source__size`."""
    path = directory / "architecture.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = data
        for part in outer:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(data))


def refused(directory: Path, match: str, **options: Any) -> None:
    with pytest.raises(GhostsearchError, match=match) as told:
        load(directory, **options)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(("spec", "preset"), BUILDERS)
def test_round_trip_is_bit_equal(spec: str, preset: str, tmp_path: Path) -> None:
    loaded = load_model(spec, size=32 if spec.startswith("ghostsearch") else 64)
    architecture = mixed_architecture(loaded, preset)
    module = converted(loaded, architecture)
    again = load_directory(save(module, tmp_path, source=loaded, architecture=architecture))
    assert again.architecture == architecture
    assert (again.spec, again.input, again.classes) == (loaded.spec, loaded.input, loaded.classes)
    before, after = module.state_dict(), again.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    x = example_input(loaded.input, batch=2)
    with torch.no_grad():
        want, got = module(x), again.module(x)
    pairs = [(want[k], got[k]) for k in want] if isinstance(want, dict) else [(want, got)]
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_same_model_is_written_as_the_same_bytes(written: Path, tmp_path: Path) -> None:
    saved = load_directory(written)
    again = save(saved.module, tmp_path / "again", source=saved, architecture=saved.architecture)
    for name in ("architecture.json", "weights.safetensors"):
        assert (again / name).read_bytes() == (written / name).read_bytes()


def test_a_model_of_version_1_is_read_and_computes_what_it_did() -> None:
    saved = load_directory(Path(__file__).parents[1] / "export" / "fixtures" / "converted_v1")
    assert saved.architecture.digest == "22d889bdac"
    known = [0.00548, -0.1038, 0.08714, 0.06648, -0.04505, -0.03495, -0.02109, -0.07703, -0.09719, -0.0518]
    with torch.no_grad():
        values = saved.module(torch.linspace(-1, 2, 64).view(1, 1, 8, 8))
    torch.testing.assert_close(values, torch.tensor([known]), rtol=0, atol=1e-4)


def test_the_file_is_an_architecture_file_too(written: Path) -> None:
    assert Architecture.read(written / "architecture.json") == load_directory(written).architecture


def test_versions_are_kept(written: Path) -> None:
    assert load_directory(written).versions["torch"] == torch.__version__.partition("+")[0]


def test_baseline_model_of_a_saved_one(written: Path) -> None:
    baseline = load_baseline(load_directory(written))
    assert baseline.module.state_dict().keys() == load_model("ghostsearch:digits_cnn").module.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = load_model("ghostsearch:digits_cnn")
    architecture = mixed_architecture(loaded, "ghost")
    module = converted(loaded, architecture).to(dtype)
    again = load(save(module, tmp_path, source=loaded, architecture=architecture))
    assert {p.dtype for p in again.parameters()} == {dtype}
    x = example_input(loaded.input).to(dtype)
    with torch.no_grad():
        assert torch.equal(module(x), again(x))


def test_channels_last_weights_are_stored(tmp_path: Path) -> None:
    loaded = load_model("ghostsearch:resnet20")
    module = randomised(loaded.module).to(memory_format=torch.channels_last)
    again = load(save(module, tmp_path, source=loaded, architecture=Architecture()))
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


class Tied(nn.Module):
    """One convolution under two names, and a made-in-Python network without a builder."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(self.stem(x)))).mean((2, 3))


def test_a_network_made_in_python_is_loaded_into_one_like_it(tmp_path: Path) -> None:
    source = LoadedModel(Tied().eval(), "", InputSpec(16))
    architecture = Architecture.of({"first": "ghost(ratio=2, kernel=3)"})
    module = converted(source, architecture)
    save(module, tmp_path, source=source, architecture=architecture)
    refused(tmp_path, "made in Python and has no name")
    again = load(tmp_path, model=Tied())
    assert again.get_submodule("first") is again.get_submodule("second")
    x = example_input(source.input)
    with torch.no_grad():
        assert torch.equal(module(x), again(x))
    refused(tmp_path, "names no site|no site|unknown|first", model=nn.Conv2d(3, 3, 3))


def test_code_named_in_a_file_is_not_run(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "stranger.py").write_text(
        f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
        "from ghostsearch.models.load import load_model\n"
        "def build():\n"
        "    loaded = load_model('ghostsearch:digits_cnn')\n"
        "    loaded.module.input_spec = loaded.input\n"
        "    return loaded.module\n"
    )
    monkeypatch.chdir(tmp_path)
    edit(copy, source__model="stranger:build")
    refused(copy, "stranger:build.*code that loading would run.*allow_code=True")
    assert not canary.exists()
    assert load(copy, model=load_model("ghostsearch:digits_cnn").module)
    assert not canary.exists()
    assert load(copy, allow_code=True)
    assert canary.exists(), "the module that builds the network was not the one this test wrote"


@pytest.mark.parametrize(
    "spec",
    ["os:getcwd", "timm:hf-hub:someone/net", "timm:local-dir:/tmp", "torchvision:../x", "/etc/passwd", "\n"],
)
def test_names_that_reach_out_are_refused(copy: Path, spec: str) -> None:
    edit(copy, source__model=spec)
    refused(copy, "code that loading would run")


def test_newer_version(copy: Path) -> None:
    edit(copy, version=2)
    refused(copy, r"version 2 is unknown here \(known: 1\); upgrade")


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, f"not a ghostsearch model .{name} is missing")
    refused(copy / "absent", "not a ghostsearch model .there is no such directory")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(copy: Path, share: float) -> None:
    path = copy / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(copy, "not a safetensors file|not the weights")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_architecture(copy: Path, share: float) -> None:
    path = copy / "architecture.json"
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    refused(copy, "not valid JSON")


def test_an_architecture_alone_is_no_model(copy: Path) -> None:
    architecture = Architecture.read(copy / "architecture.json")
    (copy / "architecture.json").write_text(json.dumps(architecture.to_dict()))
    refused(copy, "an architecture without a model; apply it by 'ghostsearch convert")


def test_weights_of_another_conversion(copy: Path) -> None:
    edit(copy, sites={})
    refused(copy, "tensors do not fit the architecture")


def test_replaced_weights(copy: Path) -> None:
    path = copy / "weights.safetensors"
    save_file({k: v * 2 for k, v in load_file(path).items()}, path)
    refused(copy, "not the weights that architecture.json was written with")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sites": {"no.such": "ghost(ratio=2, kernel=3)"}}, "no.such"),
        ({"sites": {"stem": "explode()"}}, "no choice is called 'explode'"),
        ({"source": None}, "source: Input should be"),
        ({"source__size": 10**9}, "source.size: .* from 1 to 4096"),
        ({"source__size": -1}, "source.size"),
        ({"source__size": 8.5}, "source.size"),
        ({"source__channels": 10**9}, "source.channels"),
        ({"source__std": [0.0]}, "source.std.0: Input should be greater than 0"),
        ({"source__mean": [float("nan")]}, "source.mean.0"),
        ({"source__mean": [0.0] * 7}, "one value per channel"),
        ({"source__classes": 10**9}, "source.classes"),
        ({"source__classes": 77_777}, "declares 77777 classes, but no tensor"),
        ({"width_multiple": 0}, "width_multiple"),
        ({"source__model": "torchvision:nothing"}, "is unknown; nearest"),
        ({"source": HUGE}, "has 632045800 parameters, weights.safetensors only .* forged or mixed up"),
    ],
)
def test_forged_architecture(copy: Path, changes: dict[str, Any], match: str) -> None:
    edit(copy, **changes)
    started = time.process_time()
    refused(copy, match)
    assert time.process_time() - started < 30


def test_a_forged_channel_order(tmp_path: Path) -> None:
    from ghostsearch.blocks.ghost import GhostConv

    loaded = load_model("ghostsearch:digits_cnn")
    architecture = mixed_architecture(loaded, "ghost")
    module = converted(loaded, architecture)
    name, block = next((n, m) for n, m in module.named_modules() if isinstance(m, GhostConv))
    block.order = torch.arange(block.out_channels).flip(0)
    again = load(save(module, tmp_path, source=loaded, architecture=architecture))
    assert torch.equal(again.get_submodule(name).order, block.order)
    block.order = torch.full((block.out_channels,), 10**6)
    save(module, tmp_path, source=loaded, architecture=architecture)
    refused(tmp_path, "order is no order of")


def test_a_converted_model_is_not_a_source_for_another_conversion(written: Path, tmp_path: Path) -> None:
    saved = load_directory(written)
    with pytest.raises(GhostsearchError, match=r"converted already .*; convert the baseline ghostsearch:digits_cnn"):
        save(saved.module, tmp_path, source=saved, architecture=Architecture.of({"x": "lowrank(rank=0.5)"}))


def test_a_state_that_is_no_tensor(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> object:
            return {"not": "a tensor"}

        def set_extra_state(self, state: object) -> None:
            raise AssertionError(state)

    with pytest.raises(GhostsearchError, match="'_extra_state' is a dict; only tensors are stored"):
        save(Odd(2, 2), tmp_path, source=LoadedModel(Odd(2, 2), "", InputSpec(8)), architecture=Architecture())
    assert not list(tmp_path.iterdir())
