"""Networks side by side: measured alike, published figures named as such, bad input refused in one line."""

from __future__ import annotations

import pytest
import torchvision

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.report.compact import (
    ComparedModel,
    compact_rows,
    compare_models,
    find_model,
    published_accuracy,
    read_compact,
    table_note,
    write_compact,
    write_tables,
)
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.surgery.saved import save
from ghostsearch.units import with_prefix


@pytest.fixture(scope="module")
def rows() -> list[ComparedModel]:
    return compare_models(
        ["mobilenet_v3_small", "shufflenet_v2_x0_5"], device="torch:cpu", size=32, setting=Setting(time_limit=0.5)
    )


def test_costs_are_those_of_the_networks(rows) -> None:
    # torchvision states the parameters of both in its weights' metadata.
    assert [r.cost.params for r in rows] == [2_542_856, 1_366_792]
    assert all(r.size == "32×32" and r.cost.macs > 0 and r.latency.median_s > 0 for r in rows)


def test_the_first_model_is_timed_beside_itself_and_the_others(rows) -> None:
    assert all(r.latency.device == "torch:cpu" and r.latency.ratio is not None for r in rows)


def test_shares_add_up_and_tell_pointwise_from_depthwise(rows) -> None:
    for row in rows:
        for of in ("params_share", "macs_share"):
            assert sum(s[of] for s in row.shares) == pytest.approx(1)
        assert row.share("conv 1x1") > row.share("depthwise") > 0


def test_published_accuracy_is_torchvisions_own_figure(rows) -> None:
    meta = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.meta
    assert rows[0].published.accuracy * 100 == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"])
    assert rows[0].published.source == "torchvision IMAGENET1K_V1"


def test_nothing_is_published_for_other_classes_or_sources() -> None:
    assert published_accuracy(load_model("torchvision:resnet18", classes=10)) is None
    assert published_accuracy(load_model("ghostsearch:resnet20")) is None


def test_table_names_published_figures_and_shares(rows) -> None:
    header, table = compact_rows(rows)
    cells = dict(zip(header, table[0], strict=True))
    assert cells["publ."] == "67.7 %"
    assert "torchvision IMAGENET1K_V1, ImageNet-1K" in table_note(rows)
    assert cells["params"] == "2.54 M"
    assert cells["1×1 MACs"].endswith("%")


def test_rows_are_kept_beside_a_study_and_foreign_files_refused(rows, tmp_path) -> None:
    write_compact(rows, tmp_path)
    assert read_compact(tmp_path) == tuple(rows)
    assert read_compact(tmp_path / "elsewhere") == ()
    (tmp_path / "compact.json").write_text('[{"name": "x"}]')
    with pytest.raises(GhostsearchError, match="not written by 'ghostsearch compare'"):
        read_compact(tmp_path)


def test_bare_names_are_found_where_they_are() -> None:
    assert find_model("resnet18").spec == "torchvision:resnet18"
    assert find_model("resnet20").spec == "ghostsearch:resnet20"
    with pytest.raises(GhostsearchError, match="nearest: torchvision:"):
        find_model("resnet81")


def test_a_directory_says_what_it_is_made_of_and_the_page_says_it(tmp_path) -> None:
    baseline = load_model("ghostsearch:resnet20")
    architecture = Architecture.of({"layer1.0.conv1": "ghost(ratio=2, kernel=3)"}, {"layer2.1.conv1": "width(0.5)"})
    module = convert(baseline.module, architecture, example=example_input(baseline.input))
    save(module, tmp_path / "mine", source=baseline, architecture=architecture)
    names = ["resnet20", str(tmp_path / "mine")]
    rows = compare_models(names, device="torch:cpu", setting=Setting(time_limit=0.2))
    assert rows[1].made_of == "ghostsearch:resnet20 with 1 × ghost(ratio=2, kernel=3), 1 × width(0.5)"
    assert rows[0].made_of == ""
    write_tables(rows, tmp_path)
    text = (tmp_path / "compare.md").read_text()
    assert "1 × ghost(ratio=2, kernel=3), 1 × width(0.5)" in text
    assert with_prefix(rows[1].cost.macs) in text
    larger = compare_models(names[::-1], device="torch:cpu", size=64, setting=Setting(time_limit=0.1))
    assert [r.size for r in larger] == ["64×64", "64×64"]
    assert larger[0].cost.macs > 3.9 * rows[1].cost.macs


def test_a_directory_of_foreign_code_needs_leave(tmp_path, monkeypatch) -> None:
    (tmp_path / "theirs.py").write_text("from ghostsearch.models.cifar import resnet20 as net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    baseline = load_model("theirs:net", size=32)
    save(baseline.module, tmp_path / "mine", source=baseline, architecture=Architecture())
    with pytest.raises(GhostsearchError, match="allow"):
        find_model("mine")
    assert find_model("mine", allow_code=True).spec == "theirs:net"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "one or more different models"),
        (["resnet18", "resnet18"], "different models"),
        (["ghostsearch:digits_cnn", "resnet18"], "channels"),
        (["ghostsearch:resnet20", "torchvision:alexnet"], "does not take the first model's images"),
    ],
)
def test_bad_input_is_one_clear_line(names, message) -> None:
    with pytest.raises(GhostsearchError, match=message):
        compare_models(names, device="torch:cpu", setting=Setting(time_limit=0.1))
