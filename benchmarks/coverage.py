"""Converts every builder of torchvision and many of timm with the default preset: the page results/coverage.md.

    python benchmarks/coverage.py --widths 15         # all, about a quarter of an hour on one core
    python benchmarks/coverage.py torchvision:resnet18 timm:ghostnet_100
    python benchmarks/coverage.py --family detection

Each row: what was found, params and MACs before and after `ghost(ratio=2, kernel=3)` wherever ghost.yaml offers it, the
MACs predicted by formula, and the seconds. Inputs are small, and models without data (meta device) where that works.
`--widths M` also traces and checks channel groups of models with at most M million parameters.
"""

from __future__ import annotations

import argparse
import csv
import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from ghostsearch.machine import processor

VERSIONS = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
COLUMNS = (
    "model", "family", "input", "sites", "skipped", "groups", "groups_fixed", "params", "params_after",
    "params_predicted", "macs", "macs_after", "macs_predicted", "swapped", "find_seconds", "convert_seconds", "status",
    "reasons", "width_note", "date", "versions",
)  # fmt: skip
CHOICE = "ghost(ratio=2, kernel=3)"
TIMM = [
    "bat_resnext26ts", "coat_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "crossvit_tiny_240",
    "csatv2", "cspdarknet53", "cspnext_s", "cspresnet50", "darknet53", "densenet121", "dla34", "dm_nfnet_f0", "dpn68",
    "eca_resnet33ts", "ecaresnet26t", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0",
    "efficientnet_b0", "efficientnetv2_rw_t", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "ese_vovnet19b_dw", "fasternet_t0", "fastvit_t8", "fbnetc_100", "fbnetv3_b", "focalnet_tiny_srf", "gcresnext26ts",
    "gernet_s", "ghostnet_100", "ghostnetv2_100", "halonet26t", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0",
    "hrnet_w18_small", "iformer_s", "inception_next_tiny", "inception_resnet_v2", "inception_v3", "inception_v4",
    "lambda_resnet26t", "lcnet_050", "lcnetv2_small", "legacy_senet154", "legacy_xception", "levit_conv_128s",
    "lowformer_b0", "mambaout_femto", "mixnet_s", "mnasnet_100", "mobilenetv2_100", "mobilenetv3_large_100",
    "mobilenetv4_conv_small", "mobilenetv5_300m", "mobileone_s0", "mobilevit_xxs", "nasnetalarge", "nextvit_small",
    "nf_resnet50", "nfnet_f0", "pit_ti_224", "pnasnet5large", "poolformer_s12", "rdnet_tiny", "regnetv_040",
    "regnetx_002", "regnety_002", "regnetz_b16", "repghostnet_050", "repvgg_a0", "repvit_m0_9", "res2net50_26w_4s",
    "resnest14d", "resnet18", "resnet50", "resnet50d", "resnetv2_50", "resnetv2_50x1_bit", "resnext50_32x4d",
    "rexnet_100", "selecsls42", "semnasnet_075", "seresnet50", "shvit_s1", "skresnet18", "spnasnet_100", "starnet_s1",
    "swiftformer_xs", "swin_tiny_patch4_window7_224", "tf_efficientnet_b0", "tf_efficientnetv2_b0", "tf_mixnet_s",
    "tinynet_a", "tresnet_m", "vgg11_bn", "visformer_tiny", "vit_tiny_patch16_224", "vovnet39a", "wide_resnet50_2",
    "xception41", "xcit_nano_12_p16_224",
]  # fmt: skip
FIXED_SIZES = {
    "inception_v3": 128, "quantized_inception_v3": 128, "maxvit_t": 224, "timm:inception_v4": 128,
    "timm:inception_resnet_v2": 128, "timm:inception_v3": 128, "timm:crossvit_tiny_240": 240, "timm:halonet26t": 256,
    "timm:bat_resnext26ts": 256,
}  # fmt: skip
"""Square input sizes of classifiers that refuse 64 pixels."""
FULL_SIZE = ("vit", "cross", "swin", "xcit", "pit_", "coat", "former", "lambda")
"""Parts of the names of timm's networks that want 224 pixels."""

REGIONS = {
    "rpn_pre_nms_top_n_test": 4, "rpn_post_nms_top_n_test": 8, "rpn_nms_thresh": 1.0,
    "box_score_thresh": 0.0, "box_nms_thresh": 1.0, "box_detections_per_img": 4,
}  # fmt: skip
"""Two-stage detectors run their heads once per region: so many regions survive whatever the weights are."""


@dataclass(frozen=True)
class Case:
    """One builder: its family, how to make it, and an example of its input."""

    name: str
    family: str
    build: Callable[[], nn.Module]
    example: Any


def torchvision_cases() -> Iterator[Case]:
    """Every builder of torchvision, quantizable ones in float."""
    import torchvision.models as tv

    for name in tv.list_models(module=tv):
        size = FIXED_SIZES.get(name, 224 if name.startswith("vit") else 64)
        baseline = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        yield _case(name, "classification", torch.zeros(1, 3, size, size), baseline)
    for name in tv.list_models(module=tv.quantization):
        size = FIXED_SIZES.get(name, 64)
        baseline = {"init_weights": False} if "googlenet" in name or "inception" in name else {}
        yield _case(name, "quantizable", torch.zeros(1, 3, size, size), {"quantize": False, **baseline})
    for name in tv.list_models(module=tv.segmentation):
        yield _case(name, "segmentation", torch.zeros(1, 3, 64, 64), {"weights_backbone": None})
    for name in tv.list_models(module=tv.detection):
        size = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
        regions = REGIONS if "rcnn" in name else {}
        yield _case(name, "detection", [torch.rand(3, 96, 128)], {"weights_backbone": None, **size, **regions})
    for name in tv.list_models(module=tv.video):
        clip = {"mvit": (1, 3, 16, 224, 224), "s3d": (1, 3, 16, 224, 224)}.get(name.split("_")[0], (1, 3, 8, 64, 64))
        yield _case(name, "video", torch.zeros(clip), {})
    for name in tv.list_models(module=tv.optical_flow):
        yield _case(name, "optical flow", (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128)), {})


def _case(name: str, family: str, example: Any, options: dict[str, Any]) -> Case:
    import torchvision.models as tv

    def build() -> nn.Module:
        model = tv.get_model(name, weights=None, **options)
        if "rcnn" in name:
            # Regions that keep their anchors' shape: none is dropped for having no area.
            nn.init.zeros_(model.rpn.head.bbox_pred.weight)
            nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
        return model

    return Case(f"torchvision:{name}", family, build, example)


def timm_cases() -> Iterator[Case]:
    """A selection of timm's networks, some without any convolution to replace."""
    import timm

    for name in TIMM:
        transformer = any(part in name for part in FULL_SIZE)
        size = FIXED_SIZES.get(f"timm:{name}", 224 if transformer else 64)
        yield Case(f"timm:{name}", "timm", lambda name=name: timm.create_model(name), torch.zeros(1, 3, size, size))


def coverage_row(case: Case, widths_below: int = 0) -> dict[str, Any]:
    """What the default conversion does to one builder; `status` is `ok`, `no site: …` or `predicted cost differs`."""
    from ghostsearch.errors import GhostsearchError

    if not widths_below and case.family != "detection":
        try:
            with torch.device("meta"):
                model = case.build()
            return _row(case, model, 0)
        # It computes with its weights while it is built, or an operator of its forward has no meta kernel.
        except (NotImplementedError, RuntimeError, GhostsearchError):
            pass
    return _row(case, case.build(), widths_below)


def _row(case: Case, model: nn.Module, widths_below: int) -> dict[str, Any]:
    from ghostsearch.errors import GhostsearchError
    from ghostsearch.measure.cost import measure_cost
    from ghostsearch.space.costs import site_macs, site_params
    from ghostsearch.space.preset import load_preset
    from ghostsearch.surgery.convert import convert
    from ghostsearch.surgery.sites import find_sites

    row: dict[str, Any] = {"model": case.name, "family": case.family, "input": _shape(case.example)}
    row |= {"date": datetime.now(UTC).date().isoformat(), "versions": VERSIONS}
    model.eval()
    params = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    anatomy = find_sites(model, case.example, widths=params < widths_below * 10**6)
    before = measure_cost(model, case.example)
    row |= {
        "sites": len(anatomy.sites),
        "skipped": len(anatomy.skipped),
        "groups": len(anatomy.groups),
        "groups_fixed": sum(bool(g.fixed) for g in anatomy.groups),
        "params": before.params,
        "macs": before.macs,
        "find_seconds": round(time.perf_counter() - start, 2),
        "reasons": "; ".join(f"{n} {r}" for r, n in _reasons(anatomy).most_common()),
        "width_note": anatomy.width_note,
    }
    try:
        architecture = load_preset("ghost").resolve(anatomy).uniform(CHOICE)
    except GhostsearchError as error:
        return row | {"status": f"no site: {error}"}
    start = time.perf_counter()
    converted = convert(model, architecture, example=case.example, anatomy=anatomy)
    row["convert_seconds"] = round(time.perf_counter() - start, 2)
    after = measure_cost(converted, case.example)
    sites = {site.path: site for site in anatomy.sites}
    changed = [(sites[path], choice) for path, choice in architecture.sites.items()]
    row |= {
        "swapped": len(changed),
        "params_after": after.params,
        "params_predicted": before.params + sum(site_params(s, c) - s.params for s, c in changed),
        "macs_after": after.macs,
        "macs_predicted": before.macs + sum(site_macs(s, c) - s.macs for s, c in changed),
    }
    exact = (after.params, after.macs) == (row["params_predicted"], row["macs_predicted"])
    return row | {"status": "ok" if exact else "predicted cost differs"}


def _reasons(anatomy: Any) -> Counter[str]:
    return Counter(s.reason.split(":")[0] for s in anatomy.skipped)


def _shape(example: Any) -> str:
    from ghostsearch.graph.capture import tensors

    return " ".join("x".join(map(str, t.shape)) for t in tensors(example))


def publish_table(rows: list[dict[str, Any]], out: Path) -> None:
    """All rows as a page of results/."""
    ordered = sorted(rows, key=lambda row: (row["family"], row["model"]))
    found = Counter(row["status"].split(":")[0] for row in ordered)
    page = ResultPage(
        name="coverage",
        title="Coverage: what the default conversion does to every builder",
        claim="Builders of torchvision and timm that convert at exactly the params and MACs predicted; the others have "
        "no convolution to replace and say why",
        figure=", ".join(f"{n} {status}" for status, n in found.items()),
        command=script_command(),
        device=f"{processor()}, one thread",
        tables=[ResultTable("every builder", [{c: row.get(c, "") for c in COLUMNS} for row in ordered])],
        notes=(
            f"Every convolution that ghost.yaml offers becomes {CHOICE}. MACs are of the small input named. "
            "convert_seconds: convert without calibration. groups: channel widths traced and checked, by --widths 15 "
            "in some rows; those of them that are fixed cannot change (one is the model's output).",
            "Each row names the day and the versions it was made with; the command made the last of them. --missing "
            "makes those that are not there.",
        ),
    )
    publish(page, out)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that are there already, whole numbers as such."""
    if not path.is_file():
        return []
    return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(path.open(encoding="utf-8"))]


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def main() -> None:
    """Run the cases named on the command line (all without names) and update the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names such as torchvision:resnet18")
    parser.add_argument("--family", help="only builders of this family")
    parser.add_argument(
        "--widths", type=int, default=0, metavar="M", help="check groups of models below M million params"
    )
    parser.add_argument("--missing", action="store_true", help="only builders without a row in coverage.csv")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="not in macs")  # NMS, grid sampling: the same before and after
    cases = [*torchvision_cases(), *timm_cases()]
    rows = {row["model"]: row for row in read_rows(options.out / "coverage.csv")}
    for case in cases:
        named = (not options.models or case.name in options.models) and options.family in (None, case.family)
        if not named or (options.missing and case.name in rows):
            continue
        rows[case.name] = row = coverage_row(case, options.widths)
        print(
            f"{case.name:44} sites {row['sites']:4} {row.get('convert_seconds', 0):6.2f} s  {row['status']}", flush=True
        )
        gc.collect()
        publish_table(list(rows.values()), options.out)
    publish_table(list(rows.values()), options.out)


if __name__ == "__main__":
    main()
