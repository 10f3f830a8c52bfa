"""A block that only this file knows goes through everything: it is one choice, one block and one row of the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ghostsearch.blocks.base import CONVS, Block, Conv
from ghostsearch.blocks.table import BLOCKS
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.writer import export
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import CostTable
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.report.inspection import inspection
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import Choice, Filters, LayerChoice, Look
from ghostsearch.study.candidates import read_candidates
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import SavedModel, load, save
from ghostsearch.surgery.sites import find_sites

SPACE = """
include: ["block2.0.*"]
sites: [{choices: ["blind(seen=0.5)", "blind(seen=0.25)"]}]
"""
SITE = "block2.0.0"


@pytest.fixture(scope="module", autouse=True)
def blind() -> Iterator[None]:
    """The toy choice and its block are known while this file's tests run."""

    @dataclass(frozen=True)
    class Blind(LayerChoice):
        """A convolution that sees only the first of its input channels."""

        name: ClassVar[str] = "blind"
        seen: float = 0.5

        def __str__(self) -> str:
            return f"blind(seen={self.seen:g})"

        def inputs(self, filters: Filters) -> int:
            return max(1, int(self.seen * filters.in_channels))

        def position_macs(self, filters: Filters) -> int:
            return filters.out_channels * self.inputs(filters) * filters.taps // filters.in_channels

        def params(self, filters: Filters) -> int:
            return self.position_macs(filters) + filters.out_channels * filters.bias

        def suits(self, filters: Filters) -> bool:
            return filters.groups == 1

        @property
        def look(self) -> Look:
            return Look("bl", (5, -self.seen), "#123456")

    class BlindConv(Block):
        def __init__(self, conv: Conv, choice: Blind) -> None:
            super().__init__(conv, choice)
            filters = Filters(conv.in_channels, conv.out_channels, conv.kernel_size)
            self.conv = CONVS[conv.weight.dim() - 2](
                choice.inputs(filters), conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                bias=conv.bias is not None, device=conv.weight.device, dtype=conv.weight.dtype,
            )  # fmt: skip

        @property
        def first(self) -> Conv:
            return self.conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x[:, : self.conv.in_channels])

        @torch.no_grad()
        def copy_weights(self, conv: Conv) -> None:
            self.conv.weight.copy_(conv.weight[:, : self.conv.in_channels])
            if conv.bias is not None:
                self.conv.bias.copy_(conv.bias)

        @torch.no_grad()
        def scale_outputs(self, factors: Tensor) -> None:
            self.conv.weight.mul_(factors.reshape(-1, *[1] * (self.conv.weight.dim() - 1)))
            if self.conv.bias is not None:
                self.conv.bias.mul_(factors)

    Choice.kinds["blind"] = Blind
    BLOCKS[Blind] = BlindConv
    yield
    del Choice.kinds["blind"], BLOCKS[Blind]


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("ghostsearch:digits_cnn")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("space") / "blind.yaml"
    path.write_text(SPACE)
    return str(path)


def test_inspect_offers_it_with_its_speedup(digits: LoadedModel, space: str) -> None:
    rows = {row["site"]: row["choices"] for row in inspection(digits, space)["sites"]}
    assert [c["choice"] for c in rows[SITE]] == ["keep", "blind(seen=0.5)", "blind(seen=0.25)"]
    assert [c["speedup"] for c in rows[SITE]] == [1, 2, 4]


@pytest.mark.parametrize("calibrated", [False, True])
def test_it_converts_costs_what_it_says_saves_and_exports(digits, calibrated, tmp_path) -> None:  # type: ignore[no-untyped-def]
    example = example_input(digits.input)
    architecture = Architecture.of({SITE: "blind(seen=0.5)"})
    calibration = [torch.rand(16, 1, 8, 8)] if calibrated else None
    model = convert(digits.module, architecture, example=example, calibration=calibration)
    conv, block = digits.module.get_submodule(SITE), model.get_submodule(SITE)
    if not calibrated:
        assert torch.equal(block.conv.weight, conv.weight[:, : conv.in_channels // 2])
    table = CostTable(digits.module, example, find_sites(digits.module, example))
    counted = measure_cost(model, example)
    assert (counted.params, counted.macs) == (table.predict(architecture).params, table.predict(architecture).macs)
    save(model, tmp_path / "net", source=digits, architecture=architecture)
    again = load(tmp_path / "net")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), model(x))
    written = export(
        SavedModel(model, digits.spec, digits.input, architecture=architecture), "onnx", tmp_path / "n.onnx"
    )
    assert written.max_difference < 1e-4


def test_a_search_reports_it(space: str, tmp_path, hasty) -> None:  # type: ignore[no-untyped-def]
    run = RunConfig(
        space=space, objectives=("score", "latency"), trials=3, epochs=0, final_epochs=0, baseline_epochs=1,
        train_images=128, calibration_images=64, time_limit=0.02, final_time_limit=0.05, cell_time_limit=0.02,
        veto=False, out=str(tmp_path / "run"),
    )  # fmt: skip
    view = search(run)
    assert all(r.state == "complete" for r in view.records), [r for r in view.records if r.state != "complete"]
    assert any("blind" in choice for r in view.records for choice in r.sites.values())
    table = read_candidates(tmp_path / "run")
    assert set(table["choice"]) == {"blind(seen=0.5)", "blind(seen=0.25)"}
    assert table.filter(like="latency_ratio").notna().all().all()
    assert "blind(seen=0.5)" in (tmp_path / "run" / "report.html").read_text()


def test_a_choice_without_a_block_is_refused(digits: LoadedModel) -> None:
    @dataclass(frozen=True)
    class Lost(LayerChoice):
        name: ClassVar[str] = "lost"

    try:
        with pytest.raises(GhostsearchError, match=r"blocks/table\.py has no block for it"):
            convert(digits.module, Architecture({SITE: Lost()}), example=example_input(digits.input))
    finally:
        del Choice.kinds["lost"]
