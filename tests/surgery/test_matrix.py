"""The default conversion on builders of every family: predicted params and MACs equal the counted ones to the unit."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def _load():
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARK)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = _load()
CASES = {case.name: case for case in [*coverage.torchvision_cases(), *coverage.timm_cases()]}
# One builder of every kind of block: all builders have their row in the results, by the benchmark's own command.
FAST = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
    "vgg11_bn", "quantized_shufflenet_v2_x0_5", "deeplabv3_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "mc3_18", "s3d", "raft_small",
    "timm:convnextv2_atto", "timm:edgenext_xx_small", "timm:efficientvit_b0", "timm:ghostnet_100", "timm:mixnet_s",
    "timm:mobilevit_xxs", "timm:repvgg_a0", "timm:resnest14d", "timm:tf_efficientnet_b0",
]  # fmt: skip
WITHOUT_SITES = ["vit_b_32", "swin_t", "timm:vit_tiny_patch16_224"]


def case(name):
    return CASES[name if ":" in name else f"torchvision:{name}"]


def test_every_builder_of_torchvision_is_covered():
    import torchvision.models

    assert {f"torchvision:{n}" for n in torchvision.models.list_models()} <= set(CASES)


def test_every_builder_has_a_row_in_the_results():
    rows = {row["model"]: row for row in csv.DictReader((BENCHMARK.parents[1] / "results" / "coverage.csv").open())}
    assert set(rows) == set(CASES)


@pytest.mark.filterwarnings("ignore:not in macs")
@pytest.mark.parametrize("name", FAST)
def test_the_default_conversion_costs_what_was_predicted(name):
    row = coverage.coverage_row(case(name))
    assert row["status"] == "ok"
    assert row["swapped"] > 0
    assert row["macs_after"] == row["macs_predicted"] < row["macs"]
    assert row["params_after"] == row["params_predicted"] < row["params"]


@pytest.mark.parametrize("name", WITHOUT_SITES)
def test_a_network_without_sites_says_so_in_one_line(name):
    row = coverage.coverage_row(case(name))
    assert row["sites"] == 0
    assert row["status"].startswith("no site: no convolution of this model can be replaced")
    assert row["reasons"]
