"""A block that only a user's package knows goes through everything: it is one choice, one block and one row."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from ghostsearch.blocks.table import BLOCKS
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.writer import export
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.report.inspection import inspection
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Choice, LayerChoice
from ghostsearch.study.candidates import read_candidates
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search
from ghostsearch.study.solve import solve_study
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.fit_model import FitReport
from ghostsearch.surgery.saved import SavedModel, load, save
from ghostsearch.surgery.sites import find_sites

SPACE = """
include: ["block2.0.*"]
sites: [{choices: ["blind(seen=0.5)", "blind(seen=0.25)"]}]
"""
SITE = "block2.0.0"


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package that brings the block is installed while this file's tests run."""
    folder = tmp_path_factory.mktemp("packages")
    info = folder / "toy_block-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-block\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ghostsearch.blocks]\nblind = tests.toy_block\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        if kind := Choice.kinds.pop("blind", None):
            del BLOCKS[kind], sys.modules["tests.toy_block"]


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("ghostsearch:digits_cnn")


@pytest.fixture(scope="module")
def costs(digits: LoadedModel) -> CostTable:
    example = example_input(digits.input)
    return CostTable(digits.module, example, find_sites(digits.module, example))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("space") / "blind.yaml"
    path.write_text(SPACE)
    return str(path)


def blind(seen: float) -> Architecture:
    return Architecture.of({SITE: f"blind(seen={seen})"})


def test_inspect_offers_it_with_its_speedup(digits: LoadedModel, space: str) -> None:
    rows = {row["site"]: row["choices"] for row in inspection(digits, space)["sites"]}
    assert [c["choice"] for c in rows[SITE]] == ["keep", "blind(seen=0.5)", "blind(seen=0.25)"]
    assert [c["speedup"] for c in rows[SITE]] == [1, 2, 4]


@pytest.mark.parametrize("calibrated", [False, True])
def test_it_converts_costs_what_it_says_saves_and_exports(digits, costs, calibrated, tmp_path) -> None:  # type: ignore[no-untyped-def]
    example, architecture = example_input(digits.input), blind(0.5)
    calibration = [torch.rand(16, 1, 8, 8)] if calibrated else None
    model = convert(digits.module, architecture, example=example, calibration=calibration)
    conv, block = digits.module.get_submodule(SITE), model.get_submodule(SITE)
    assert torch.equal(block.conv.weight, conv.weight[:, : conv.in_channels // 2]) != calibrated
    counted, predicted = measure_cost(model, example), costs.predict(architecture)
    assert (counted.params, counted.macs) == (predicted.params, predicted.macs)
    save(model, tmp_path / "net", source=digits, architecture=architecture)
    again = load(tmp_path / "net")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), model(x))
    written = export(
        SavedModel(model, digits.spec, digits.input, architecture=architecture), "onnx", tmp_path / "n.onnx"
    )
    assert written.max_difference < 1e-4


def test_its_fit_comes_nearer_to_the_baseline_than_its_copies(digits: LoadedModel) -> None:
    images, reports = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)), list[FitReport]()
    wanted = digits.module.eval()(images)

    def error(calibration: list[torch.Tensor] | None) -> float:
        model = convert(digits.module, blind(0.5), example=images[:1], calibration=calibration, on_fit=reports.append)
        return float((model.eval()(images) - wanted).square().mean().detach())

    assert error([images]) < 0.5 * error(None)
    assert reports[0].fitted[0] == SITE
    assert SITE not in reports[0].not_fitted


def test_a_search_solves_for_it_and_reports_it(costs: CostTable, space: str, tmp_path, hasty) -> None:  # type: ignore[no-untyped-def]
    run = RunConfig(
        space=space, objectives=("score", "latency", "macs"), trials=3, epochs=0, final_epochs=0, baseline_epochs=1,
        train_images=128, calibration_images=64, time_limit=0.02, final_time_limit=0.05, cell_time_limit=0.02,
        veto=False, out=str(tmp_path / "run"),
    )  # fmt: skip
    view = search(run)
    assert all(r.state == "complete" for r in view.records), [r for r in view.records if r.state != "complete"]
    assert any("blind" in choice for r in view.records for choice in r.sites.values())
    table = read_candidates(tmp_path / "run")
    assert set(table["choice"]) == {"blind(seen=0.5)", "blind(seen=0.25)"}
    assert table.filter(like="latency_ratio").notna().all().all()
    # Between the two only the cheaper one keeps the limit; above both the better one loses less.
    macs = {seen: costs.predict(blind(seen)).macs for seen in (0.5, 0.25)}
    loss = dict(zip(table["choice"], table["divergence"], strict=True))
    (tight,) = solve_study(tmp_path / "run", {"macs": str((macs[0.5] + macs[0.25]) // 2)})
    assert (tight.architecture, tight.resources["macs"]) == (blind(0.25), macs[0.25])
    best = min((0.5, 0.25), key=lambda seen: loss[f"blind(seen={seen})"])
    first = solve_study(tmp_path / "run", {"macs": str(macs[0.5])})[0]
    assert (first.architecture, first.resources["macs"]) == (blind(best), macs[best])
    assert first.loss == pytest.approx(loss[f"blind(seen={best})"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "blind(seen=0.5)" in page
    assert "#123456" in page


FRESH = """
import contextlib, sys, torch
from ghostsearch.cli.main import main
from ghostsearch.space.preset import load_preset
from ghostsearch.surgery.saved import load

out, space, site = sys.argv[1:]
choices = load_preset(space).sites[0].choices
sys.argv[1:] = ["convert", "ghostsearch:digits_cnn", "--include", site, "--choice", choices[1], "--out", out, "--quiet"]
with contextlib.suppress(SystemExit):
    main()
model = load(out)
print(type(model.get_submodule(site)).__name__, tuple(model(torch.rand(1, 1, 8, 8)).shape))
"""


def test_a_fresh_process_knows_it(package: Path, space: str, tmp_path: Path) -> None:
    """From a preset and `--choice`, and in the directory that was written."""
    path = os.pathsep.join([str(package), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", FRESH, str(tmp_path / "net"), space, SITE]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "BlindConv (1, 10)"
    assert json.loads((tmp_path / "net" / "architecture.json").read_text())["sites"] == {SITE: "blind(seen=0.5)"}


def test_a_choice_without_a_block_is_refused(digits: LoadedModel) -> None:
    @dataclass(frozen=True)
    class Lost(LayerChoice):
        name: ClassVar[str] = "lost"

    try:
        with pytest.raises(GhostsearchError, match=r"blocks/table\.py has no block for it"):
            convert(digits.module, Architecture({SITE: Lost()}), example=example_input(digits.input))
    finally:
        del Choice.kinds["lost"]
