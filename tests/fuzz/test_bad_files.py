"""Files that nobody sane would write: whatever they hold, the answer is a result or one line, soon, and nothing runs.

`GHOSTSEARCH_FUZZ=20 pytest tests/fuzz` makes twenty times as many inputs, from fresh seeds.
"""

import argparse
import copy
import json
import os
import pickle
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ghostsearch.data.load import load_calibration, load_data, own_data
from ghostsearch.data.user_loaders import TARGET_KEYS, batch_of
from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.batches import IMAGE_KEYS
from ghostsearch.models.load import DIGITS_INPUT, load_model
from ghostsearch.models.weights import load_weights
from ghostsearch.records import Axis, Cost, Record, Score
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.choice_text import parse_choice
from ghostsearch.space.preset import load_preset, parse_preset, preset_directory
from ghostsearch.study.config import RunConfig, configure
from ghostsearch.study.directory import (
    check_directory,
    load_study,
    write_records,
    write_run,
    write_study,
)
from ghostsearch.study.ledger import Ledger
from ghostsearch.study.outcome import Outcome, write_outcome
from ghostsearch.study.store import open_storage
from ghostsearch.surgery.saved import load, read_manifest, save
from ghostsearch.training.checks import check_run
from ghostsearch.training.tasks.classification import Classification

FACTOR = int(os.environ.get("GHOSTSEARCH_FUZZ", "1"))
INPUTS = {
    "choice": 5000, "preset data": 1000, "preset file": 700, "architecture": 1000, "architecture file": 900,
    "run": 400, "run file": 400, "manifest": 500, "weights": 120, "checkpoint": 120, "images": 30,
    "study": 150, "database": 20, "wrapper": 100, "deep image": 40, "table": 80, "arrays": 100, "batch": 500,
    "loader": 150,
}  # fmt: skip
"""Inputs per kind at FACTOR 1."""
SLOWEST_S = 20.0
"""Of processor time: a busy machine fails no input."""
MEMORY_BYTES = 2**30


def fuzz(kind: str, *strategies: Any) -> Callable[[Any], Any]:
    """Run a test on so many inputs; the same ones each time unless more are asked for."""

    def decorate(function: Any) -> Any:
        chosen = settings(
            max_examples=INPUTS[kind] * FACTOR, deadline=None, derandomize=FACTOR == 1, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        return chosen(given(*strategies)(function))

    return decorate


def survives(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result, or None where the input was refused: in one short line, and soon."""
    started = time.process_time()
    try:
        return function(*args, **options)
    except GhostsearchError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 1200, text
        return None
    finally:
        assert time.process_time() - started < SLOWEST_S


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """The whole file may not let the process grow by more than MEMORY_BYTES."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY_BYTES


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """A small converted model, whole."""
    from ghostsearch.models.load import example_input
    from ghostsearch.surgery.convert import convert

    loaded = load_model("ghostsearch:digits_cnn")
    sites = [n for n, m in loaded.module.named_modules() if isinstance(m, torch.nn.Conv2d)]
    architecture = Architecture.of({sites[1]: "ghost(ratio=2, kernel=3)"})
    module = convert(loaded.module, architecture, example=example_input(loaded.input))
    return save(module, place / "model", source=loaded, architecture=architecture)


def test_enough_inputs() -> None:
    assert sum(INPUTS.values()) >= 10_000


WORDS = st.sampled_from(
    ["ghost", "keep", "width", "lowrank",
     "ratio", "kernel", "cheap", "rank", "conv", "(", ")", "=", ",", "2", "3", "0.5",
     "-1", "1e999", "0", "**", "*", "[", "]", "lambda:0", "__import__('os').system('touch pwned')", "'", '"',
     " ", "\n", "\x00",     "9" * 50, "(" * 30, "nan", "True", "None", "é", "{}"]
)  # fmt: skip
CHOICES = st.one_of(st.lists(WORDS, max_size=12).map("".join), st.text(max_size=300))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), CHOICES,
    st.sampled_from(["*", "ghost(ratio=2, kernel=3)", "width(0.5)", 8, 10**30, -1]),
)  # fmt: skip
KEYS = st.sampled_from(
    ["format", "version", "sites", "groups", "match", "kind", "choices", "widths", "include", "exclude",
     "include_first",
     "width_multiple", "description", "source", "model", "classes", "size", "channels", "mean", "std", "weights_sha256",
     "versions", "digest", *RunConfig.model_fields]
)  # fmt: skip
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, st.text(max_size=8)), inner, max_size=5)
    ),
    max_leaves=12,
)


PLACES = st.integers(0, 2**40)
PIECES = st.one_of(
    st.binary(max_size=12), WORDS.map(str.encode),
    st.sampled_from([b": ", b"- ", b"&a", b"*a", b"!!python/name:os.system"]),
)  # fmt: skip
EDITS = st.tuples(
    st.lists(st.tuples(PLACES, st.integers(0, 12), PIECES), min_size=1, max_size=4), st.one_of(st.none(), PLACES)
)
"""A few bytes replaced, inserted or dropped, and perhaps a cut. Strategies made anew for every input would be kept by
hypothesis with the file they hold: gigabytes after some thousand weights.
"""


def spoil(whole: bytes, edits: Any) -> bytes:
    """A good file after EDITS."""
    content, (pieces, cut) = bytearray(whole), edits
    for start, length, piece in pieces:
        start %= len(content) + 1
        content[start : start + length] = piece
    return bytes(content if cut is None else content[: cut % (len(content) + 1)])


def spoiled(whole: bytes) -> st.SearchStrategy[bytes]:
    """Spoiled copies of one file."""
    return EDITS.map(partial(spoil, whole))


def drawn(data: st.DataObject, whole: bytes) -> bytes:
    """A spoiled copy, or now and then a few bytes of anything."""
    return spoil(whole, data.draw(EDITS)) if data.draw(st.integers(0, 9)) else data.draw(st.binary(max_size=64))


def edited(draw: Callable[[st.SearchStrategy[Any]], Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Good data with one or two values, at any depth, replaced by anything or dropped."""
    data = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 2))):
        node: Any = data
        while isinstance(node, dict) and node:
            key = draw(st.sampled_from(sorted(node)))
            if not isinstance(node[key], dict) or not node[key] or draw(st.booleans()):
                node[key] = draw(DATA)
                break
            node = node[key]
    return data


def drawn_json(data: st.DataObject, whole: bytes) -> bytes:
    """A spoiled copy of a JSON file: its bytes, or its values."""
    return json.dumps(edited(data.draw, json.loads(whole))).encode() if data.draw(st.booleans()) else drawn(data, whole)


@fuzz("choice", CHOICES)
def test_choices(text: str) -> None:
    choice = survives(parse_choice, text)
    if choice is not None:
        assert parse_choice(str(choice)) == choice


@fuzz(
    "preset data",
    st.one_of(DATA, st.composite(edited)(yaml.safe_load((preset_directory() / "ghost.yaml").read_text()))),
)
def test_preset_data(data: Any) -> None:
    survives(parse_preset, data, "preset")


@pytest.mark.parametrize("key", ["\n", "a\nb", "\r", "x" * 5000])
def test_keys_that_break_lines(key: str, place: Path) -> None:
    """Found by the fuzz benchmark."""
    assert survives(parse_preset, {key: None}, "preset") is None
    (place / "keys.yaml").write_text(yaml.safe_dump({key: None}))
    assert survives(configure, {}, place / "keys.yaml") is None


@fuzz("preset file", st.one_of(*(spoiled(p.read_bytes()) for p in sorted(preset_directory().glob("*.yaml")))))
def test_preset_files(place: Path, content: bytes) -> None:
    (place / "preset.yaml").write_bytes(content)
    survives(load_preset, place / "preset.yaml")


GOOD = Architecture.of({"a.conv": "ghost(ratio=2, kernel=3)"}, {"b": "width(0.5)"}).to_dict()


@fuzz("architecture", st.one_of(DATA, st.composite(edited)(GOOD)))
def test_architecture_data(data: Any) -> None:
    found = survives(Architecture.from_dict, data)
    if found is not None:
        assert Architecture.from_dict(found.to_dict()) == found


@fuzz("architecture file", st.one_of(st.binary(max_size=200), spoiled(json.dumps(GOOD).encode())))
def test_architecture_files(place: Path, content: bytes) -> None:
    (place / "architecture.json").write_bytes(content)
    survives(Architecture.read, place / "architecture.json")


RUN = yaml.safe_dump(RunConfig().model_dump(mode="json")).encode()


@fuzz("run", st.dictionaries(st.sampled_from(sorted(RunConfig.model_fields)), DATA, max_size=3))
def test_run_options(given_values: dict[str, Any]) -> None:
    survives(configure, given_values)


@fuzz("run file", spoiled(RUN))
def test_run_files(place: Path, content: bytes) -> None:
    (place / "run.yaml").write_bytes(content)
    survives(configure, {}, place / "run.yaml")


@fuzz("manifest", st.data())
def test_manifests(place: Path, model: Path, data: st.DataObject) -> None:
    whole = (model / "architecture.json").read_bytes()
    folder = place / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / "architecture.json").write_bytes(drawn_json(data, whole))
    survives(read_manifest, folder)


@fuzz("weights", st.data())
def test_weights(place: Path, model: Path, data: st.DataObject) -> None:
    """Spoiled safetensors, read as a saved model and as --weights."""
    folder = place / "weights"
    if not folder.exists():
        shutil.copytree(model, folder)
    whole = (model / "weights.safetensors").read_bytes()
    head = 8 + struct.unpack("<Q", whole[:8])[0]
    in_head = data.draw(st.booleans())
    content = spoil(whole[:head], data.draw(EDITS)) + whole[head:] if in_head else drawn(data, whole)
    (folder / "weights.safetensors").write_bytes(content)
    survives(load, folder)
    survives(load_weights, load_model("ghostsearch:digits_cnn").module, folder / "weights.safetensors")


@fuzz("checkpoint", st.data())
def test_checkpoints(place: Path, data: st.DataObject) -> None:
    """Spoiled .pt files, read as --weights."""
    module = load_model("ghostsearch:digits_cnn").module
    torch.save(module.state_dict(), place / "whole.pt")
    path = place / "net.pt"
    path.write_bytes(drawn(data, (place / "whole.pt").read_bytes()))
    survives(load_weights, module, path)


ENTRIES = st.sampled_from(["state_dict", "model", "params", "params_ema", "ema", "net", "module", "epoch", "args", "x"])
BESIDE = st.one_of(
    SCALARS, st.builds(argparse.Namespace, lr=st.floats()), st.builds(np.float64, st.floats()),
    st.builds(np.arange, st.integers(0, 4)), st.just(PurePosixPath("x")), st.builds(torch.zeros, st.integers(0, 3)),
)  # fmt: skip
NET = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


@fuzz("wrapper", st.data())
def test_checkpoint_wrappers(place: Path, data: st.DataObject) -> None:
    """Weights under entries and prefixes of any nesting, with anything beside them, some of it wrong."""
    prefix = "".join(data.draw(st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "x."]), max_size=3)))
    found: Any = {prefix + name: value for name, value in NET.state_dict().items()}
    if data.draw(st.booleans()):
        found[data.draw(st.sampled_from([prefix + "0.weight", "n_averaged", "total_ops", "y"]))] = data.draw(BESIDE)
    for _ in range(data.draw(st.integers(0, 3))):
        beside = data.draw(st.dictionaries(ENTRIES, BESIDE, max_size=3))
        found = {**beside, data.draw(ENTRIES): found}
    torch.save(found, place / "wrapped.pt")
    net = copy.deepcopy(NET)
    if survives(load_weights, net, place / "wrapped.pt") is not None:
        assert all(torch.isfinite(value).all() for value in net.state_dict().values())


MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"])


@fuzz("deep image", st.data())
def test_deep_images(place: Path, data: st.DataObject) -> None:
    """TIFF and PNG images of every mode, with values in and out of the known ranges, some damaged."""
    root = place / "deep"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for i in range(data.draw(st.integers(1, 6))):
        mode = data.draw(MODES)
        image = Image.new(mode, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))))
        if mode in ("I", "F", "I;16"):
            kinds = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
            floats = st.one_of(st.integers(-5, 70_000), st.floats(width=32))
            value = data.draw(floats if mode == "F" else st.integers(0, 65535))
            image = Image.fromarray(np.full((4, 4), value, kinds[mode]))
        path = root / f"{i}.tif"
        image.save(path)
        if not data.draw(st.integers(0, 3)):
            path.write_bytes(drawn(data, path.read_bytes()))
    found = survives(load_calibration, f"folder:{root}", input=DIGITS_INPUT, images=8)
    if found is not None:
        assert all(torch.isfinite(batch).all() for batch in found.batches)
        assert found.images + len(found.broken) == len(list(root.iterdir()))


TABLE = b"path,label,split\na.png,x,train\nb.png,y,test\n"


@fuzz("table", st.one_of(spoiled(TABLE), st.text(max_size=80).map(str.encode)))
def test_tables(place: Path, content: bytes) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 5).save(place / name)
    (place / "t.csv").write_bytes(content)
    survives(load_data, f"csv:{place / 't.csv'}", input=DIGITS_INPUT)


@fuzz("arrays", st.data())
def test_array_files(place: Path, data: st.DataObject) -> None:
    kinds = st.sampled_from(["f4", "i8", "u1", "U3", "c8", "f2", "?"])
    shape = data.draw(st.lists(st.integers(0, 9), max_size=4))
    arrays = {"x": np.zeros((6, 1, 8, 8) if data.draw(st.booleans()) else shape, data.draw(kinds))}
    if data.draw(st.booleans()):
        arrays["y"] = np.zeros(6 if data.draw(st.booleans()) else shape, data.draw(kinds))
    np.savez(place / "a.npz", **arrays)
    if data.draw(st.booleans()):
        (place / "a.npz").write_bytes(drawn(data, (place / "a.npz").read_bytes()))
    survives(load_data, f"arrays:{place / 'a.npz'}", input=DIGITS_INPUT)


BATCH_KEYS = st.one_of(st.sampled_from([*IMAGE_KEYS, *TARGET_KEYS]), st.text(max_size=3))
PARTS = st.recursive(
    st.one_of(
        SCALARS, st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=4)),
        st.builds(np.zeros, st.lists(st.integers(0, 3), max_size=4)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner),
        st.dictionaries(BATCH_KEYS, inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@fuzz("batch", PARTS)
def test_batches(batch: Any) -> None:
    found = survives(batch_of, batch, ("a", "b"))
    assert found is None or len(found) == 2


@fuzz("loader", st.lists(PARTS, max_size=3))
def test_loaders(batches: list[Any]) -> None:
    """Lists of anything as loaders, up to the check before training."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))

    def run() -> None:
        check_run(net, own_data((batches, batches, batches), "fuzz", DIGITS_INPUT), Classification())

    survives(run)


@fuzz("images", st.data())
def test_image_folders(place: Path, data: st.DataObject) -> None:
    """Whole, spoiled and foreign images in one folder, under names of all kinds."""
    root = place / "images"
    shutil.rmtree(root, ignore_errors=True)
    png, jpeg = place / "whole.png", place / "whole.jpg"
    Image.new("L", (8, 8), 77).save(png)
    Image.new("RGB", (8, 8), (9, 99, 199)).save(jpeg)
    names = st.sampled_from(["a", "b", "é", "<script>", "a b", "-rf", "%s", "\u202e", "0"])
    for i in range(data.draw(st.integers(0, 14))):
        folder = root / data.draw(names)
        folder.mkdir(parents=True, exist_ok=True)
        whole = data.draw(st.sampled_from([png, jpeg]))
        kind = data.draw(st.integers(0, 5))
        content = whole.read_bytes() if kind else drawn(data, whole.read_bytes())
        (folder / f"{i}{whole.suffix}").write_bytes(content)
    loaded = survives(load_data, f"folder:{root}", input=DIGITS_INPUT, batch=4)
    if loaded is not None:
        for split in (loaded.train, loaded.validation, loaded.test):
            for images, _ in split:
                assert images.shape[1:] == (1, 8, 8)


@pytest.fixture(scope="module")
def study(place: Path) -> Path:
    """A study directory as a search leaves it, with its trials both in a database and in records.jsonl."""
    record = Record(
        number=0, digest="baseline", origin="baseline", state="complete", cost=Cost(params=1, macs=2, size_bytes=4),
        scores=(Score(metric="accuracy", value=0.5, split="validation", epochs=0, images=9, seed=0),),
    )  # fmt: skip
    objectives = [Axis(name="score", label="accuracy", unit="", maximize=True),
                  Axis(name="macs", label="macs", unit="MACs", maximize=False)]  # fmt: skip
    folder = place / "study"
    write_run(folder, RunConfig())
    write_study(folder, {"name": "s", "space": "0", "anatomy": {}, "baseline_latencies": [], "environment": {}})
    write_records(folder, [record])
    write_outcome(folder, Outcome((record,), (record,), (record,)), objectives)
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)")})
    ledger = Ledger(open_storage(None, folder), "s", space, objectives, sampler="random", seed=0)
    proposal = ledger.ask(lambda a: True)
    assert proposal
    ledger.finish(proposal, record)
    assert load_study(folder).records[0].digest == "baseline"
    return folder


STUDY_FILES = ("run.yaml", "study.json", "outcome.json", "records.jsonl")


@fuzz("study", st.data())
def test_study_directories(study: Path, place: Path, data: st.DataObject) -> None:
    folder = place / "spoiled-study"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bad = data.draw(st.sampled_from(STUDY_FILES))
    for name in STUDY_FILES:
        whole = (study / name).read_bytes()
        if name == "run.yaml":
            # Its trials elsewhere, so that records.jsonl is what is read.
            whole = whole.replace(b"storage: null", b"storage: journal:/nonexistent/log")
        if name == bad:
            whole = (drawn_json if name in ("study.json", "outcome.json") else drawn)(data, whole)
        (folder / name).write_bytes(whole)
    view = survives(load_study, folder)
    if view is not None:
        assert all(d.isalnum() for d in view.front)


@fuzz("database", st.data())
def test_study_databases(study: Path, place: Path, data: st.DataObject) -> None:
    folder = place / "spoiled-database"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study, folder)
    whole = (study / "study.db").read_bytes()
    (folder / "study.db").write_bytes(drawn(data, whole))
    survives(load_study, folder)


@pytest.mark.parametrize("storage", ["sqlite:///OUTSIDE/other.db", "journal:OUTSIDE/log", "postgresql://1.2.3.4/x"])
def test_a_study_directory_opens_no_storage_outside_itself(storage: str, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    run = tmp_path / "study" / "run.yaml"
    run.write_text(run.read_text().replace("storage: null", f"storage: {storage.replace('OUTSIDE', str(tmp_path))}"))
    assert [r.digest for r in load_study(tmp_path / "study").records] == ["baseline"]
    assert [p.name for p in tmp_path.iterdir()] == ["study"]


@pytest.mark.parametrize("name", ["models", "study.db", "pictures", "outcome.json"])
def test_a_study_directory_cannot_lead_outside_itself(name: str, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "secret").mkdir()
    path = tmp_path / "study" / name
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(GhostsearchError, match="leads out of the study's directory"):
        load_study(tmp_path / "study")
    with pytest.raises(GhostsearchError, match="leads out of the study's directory"):
        check_directory(tmp_path / "study", RunConfig())


@pytest.mark.parametrize("digest", ["../../secret", "/etc", "a/b", "..", "<script>"])
def test_a_models_name_cannot_lead_outside(digest: str, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    outcome = json.loads((tmp_path / "study" / "outcome.json").read_text())
    outcome["front"] = outcome["missed"] = [digest]
    (tmp_path / "study" / "outcome.json").write_text(json.dumps(outcome))
    with pytest.raises(GhostsearchError, match="cannot be one of ours"):
        load_study(tmp_path / "study")


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("container", ["baseline", "zip", "legacy", "inside"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".bin"])
def test_a_malicious_pickle_is_not_run(container: str, suffix: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"net{suffix}"
    bomb = Bomb(canary)
    if container == "baseline":
        path.write_bytes(pickle.dumps(bomb))
    elif container == "inside":
        torch.save({"state_dict": {"weight": torch.zeros(2), "extra": bomb}}, path)
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(GhostsearchError):
        load_weights(load_model("ghostsearch:digits_cnn").module, path)
    assert not canary.exists()
    if container == "baseline":
        pickle.loads(path.read_bytes())
        assert canary.exists(), "the bomb is a dud, so this test would prove nothing"


@pytest.mark.parametrize("read", [load_preset, lambda path: configure({}, path)])
@pytest.mark.parametrize("field", ["description", "sites", "model", "device", "<<"])
def test_a_yaml_bomb(read: Callable[[Path], Any], field: str, tmp_path: Path) -> None:
    """Ten levels of ten aliases: 500 bytes that would print as ten billion words."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, f"{field}: *a9"]))
    assert survives(read, path) is None


@pytest.mark.parametrize("content", ["[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "1" * 5_000_000, "NaN"])
def test_deep_and_long_files(content: str, tmp_path: Path) -> None:
    for name, read in (("x.json", Architecture.read), ("x.yaml", load_preset), ("r.yaml", lambda p: configure({}, p))):
        path = tmp_path / name
        path.write_text(content[:20_000] if name != "x.json" else content)
        assert survives(read, path) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_header_that_promises_the_moon(suffix: str, model: Path, tmp_path: Path) -> None:
    """A few bytes that declare a tensor of 2^60 bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**29, 2**29], "data_offsets": [0, 2**60]}}).encode()
    path = tmp_path / f"net{suffix}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(GhostsearchError):
        load_weights(load_model("ghostsearch:digits_cnn").module, path)
    path.write_bytes(struct.pack("<Q", 2**62) + header)
    with pytest.raises(GhostsearchError):
        load_weights(load_model("ghostsearch:digits_cnn").module, path)
