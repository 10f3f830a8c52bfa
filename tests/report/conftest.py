"""A made-up study to draw: shapes of a CIFAR ResNet-20, figures from a seeded formula, measured nowhere."""

from __future__ import annotations

import dataclasses
import random

import pytest

from ghostsearch.records import Axis, Cost, Int8Model, KeptLayer, Latency, Record, Score, StudyView
from ghostsearch.space.architecture import Anatomy, Architecture, Group, Site, Skipped
from ghostsearch.space.choice_text import parse_layer_choice
from ghostsearch.space.costs import site_macs, site_params

DEVICE = "onnxruntime:cpu"
CHOICES = ("keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=2, kernel=1)", "ghost(ratio=4, kernel=3)")
WIDTHS = ("width(1)", "width(0.75)", "width(0.5)")


def make_anatomy() -> Anatomy:
    """Eighteen 3×3 convolutions in three stages, a coupling group inside each block."""
    sites, groups = [], []
    for stage, (width, size) in enumerate(((16, 32), (32, 16), (64, 8)), start=1):
        for block in range(3):
            for conv in (1, 2):
                first = block == 0 and conv == 1 and stage > 1
                c, stride = (width // 2, 2) if first else (width, 1)
                sites.append(
                    Site(
                        f"layer{stage}.{block}.conv{conv}",
                        "Conv2d 3x3",
                        c,
                        width,
                        (3, 3),
                        (stride, stride),
                        1,
                        (c, size * stride, size * stride),
                        (width, size, size),
                        macs=width * c * 9 * size * size,
                        params=width * c * 9,
                    )
                )
            name = f"layer{stage}.{block}.conv1"
            groups.append(Group(name, width, (name,)))
    return Anatomy(tuple(sites), (Skipped("conv1", "reads the image: --include-first takes it too"),), tuple(groups))


def make_record(anatomy: Anatomy, number: int, architecture: Architecture, origin: str, rng: random.Random) -> Record:
    """A trial whose cost follows the sites' formulas, score and latency a smooth law with noise."""
    chosen = {s.path: architecture.sites.get(s.path, parse_layer_choice("keep")) for s in anatomy.sites}
    share = {
        g.name: architecture.groups[g.name].share if g.name in architecture.groups else 1.0 for g in anatomy.groups
    }
    macs = sum(int(site_macs(s, chosen[s.path]) * share.get(s.path, 1.0)) for s in anatomy.sites)
    params = sum(int(site_params(s, chosen[s.path]) * share.get(s.path, 1.0)) for s in anatomy.sites)
    left = macs / sum(s.macs for s in anatomy.sites)
    pace = 0.25 + 0.75 * left + 0.004 * len(architecture.sites)
    final = 0.885 - 0.16 * (1 - left) ** 2.2 + rng.gauss(0, 0.006)
    scores = [
        Score(
            metric="accuracy",
            value=final - gap + rng.gauss(0, gap / 6),
            split="validation",
            epochs=e,
            images=2000,
            seed=0,
        )
        for e, gap in ((0, 0.14 * (1 - left) + 0.01), (1, 0.03), (3, 0.01))
    ]
    state = "complete" if origin in ("baseline", "uniform") or rng.random() < 0.7 else "pruned"
    scores = scores if state == "complete" else scores[: rng.choice((1, 2))]
    return Record(
        number=number,
        digest=architecture.digest,
        origin=origin,
        state=state,
        reason="" if state == "complete" else "dominated at rung 0: three models are better in everything",
        sites={k: str(v) for k, v in architecture.sites.items()},
        groups={k: str(v) for k, v in architecture.groups.items()},
        cost=Cost(params=params + 1802, macs=macs + 443_000, size_bytes=4 * (params + 1802) + 8000),
        latencies=(make_latency(pace, rng),),
        scores=tuple(scores),
        seconds={"convert": 0.1, "fit": 9.0, "train": 24.0 * len(scores), "measure": 3.0},
        started=f"2026-11-24T0{number // 30}:{number * 2 % 60:02d}:00+00:00",
    )


def make_latency(pace: float, rng: random.Random) -> Latency:
    baseline = [2.4e-3 * (1 + abs(rng.gauss(0, 0.02))) for _ in range(30)]
    mine = tuple(2.4e-3 * pace * (1 + abs(rng.gauss(0, 0.02))) for _ in range(30))
    return Latency(
        device=DEVICE,
        threads=1,
        batch=1,
        times_s=mine,
        baseline_times_s=tuple(baseline),
        ratio_interval=(pace * 0.985, pace * 1.015),
        stopped="narrow",
    )


def make_view(trials: int = 48, name: str = "digits-like", seed: int = 0) -> StudyView:
    """A whole study of `trials` trials, with finalists, a missed limit, a veto and an audit."""
    rng, anatomy = random.Random(seed), make_anatomy()
    todo = [("baseline", Architecture())]
    todo += [("uniform", Architecture.of({s.path: c for s in anatomy.sites})) for c in CHOICES[1:]]
    while len(todo) < trials:
        ghosted = rng.random()
        drawn = {s.path: rng.choice(CHOICES[1:]) for s in anatomy.sites if rng.random() < ghosted}
        widths = {g.name: rng.choice(WIDTHS) for g in anatomy.groups if rng.random() < 0.5}
        todo.append(("solver" if len(todo) < 14 else "sampler", Architecture.of(drawn, widths)))
    records = [make_record(anatomy, i, a, origin, rng) for i, (origin, a) in enumerate(todo)]
    done = [r for r in records if r.state == "complete"]
    front = [r for r in done if not any(_dominates(o, r) for o in done)]
    front.sort(key=lambda r: -r.score().value)
    knee = max(front, key=lambda r: r.score().value - 0.12 * r.latency(DEVICE).median_s / 2.4e-3)
    finalists = [_final(r, rng) for r in [records[0], *(r for r in front if r.digest != "baseline")]]
    limit = 2.05e-3
    missed = tuple(r.digest for r in finalists if r.latency(DEVICE).median_s > limit and r.digest != "baseline")
    return StudyView(
        directory="results/mine",
        name=name,
        config={
            "model": "ghostsearch:cifar_resnet20",
            "data": "digits",
            "device": [DEVICE],
            "seed": seed,
            "trials": trials,
            "epochs": 3,
            "max_latency": "85%",
        },
        anatomy=dataclasses.asdict(anatomy),
        objectives=(
            Axis(name="score", label="accuracy", unit="share", maximize=True),
            Axis(
                name=f"latency_s[{DEVICE}]",
                label=f"latency on {DEVICE}",
                unit="s",
                maximize=False,
                limit=limit,
            ),
            Axis(name="macs", label="MACs", unit="MACs", maximize=False),
        ),
        records=tuple(records),
        front=tuple(r.digest for r in front),
        chosen=knee.digest,
        finalists=tuple(finalists),
        missed=missed,
        vetoed=(
            {
                "site": "layer1.0.conv1",
                "choice": "ghost(ratio=2, kernel=1)",
                "device": DEVICE,
                "ratio": 1.12,
                "interval": [1.06, 1.19],
            },
        ),
        audit=(
            {"device": DEVICE, "predictor": "latency table", "models": 30, "mape": 0.041, "tau": 0.93, "worst": 0.12},
            {"device": DEVICE, "predictor": "MACs alone", "models": 30, "mape": 0.19, "tau": 0.71, "worst": 0.44},
        ),
        layers=tuple(_layer_row(site, finalists) for site in anatomy.sites),
        int8_layers=tuple(_int8_model(r, anatomy) for r in finalists[:2]),
        environment={
            "command": "ghostsearch search --trials 48",
            "python": "3.11",
            "torch": "2.x",
            "processor": "<made up>",
        },
        notes=("made-up figures for the report's own tests",),
    )


def _layer_row(site: Site, records: list[Record]) -> dict:
    """A layer that takes a nanosecond for 25 multiply-adds."""
    seconds = {r.digest: site_macs(site, parse_layer_choice(r.sites.get(site.path, "keep"))) / 25e9 for r in records}
    return {"device": DEVICE, "layer": site.path, "baseline_s": site.macs / 25e9, "seconds": seconds}


def _int8_model(record: Record, anatomy: Anatomy) -> Int8Model:
    """Two noisy layers, and a long list of what computes in float."""
    paths = [site.path for site in anatomy.sites]
    noisiest = [
        KeptLayer(layer=p, snr_db=20.4, latency_ratio=1.05, ratio_interval=(1.03, 1.07), score=record.score())
        for p in paths[:2]
    ]
    return Int8Model(
        digest=record.digest, device=DEVICE, in_float=tuple(f"{p} (Conv)" for p in paths), noisiest=noisiest
    )


def _final(record: Record, rng: random.Random) -> Record:
    value = record.score().value + 0.012 + rng.gauss(0, 0.002)
    test = Score(metric="accuracy", value=value, split="test", epochs=10, images=1000, seed=0)
    pace = record.latency(DEVICE).ratio
    return record.model_copy(
        update={"scores": (*record.scores, test), "latencies": (*record.latencies, make_latency(pace, rng))}
    )


def _dominates(a: Record, b: Record) -> bool:
    one, other = ((-r.score().value, r.latency(DEVICE).median_s, r.cost.macs) for r in (a, b))
    return one != other and all(x <= y for x, y in zip(one, other, strict=True))


@pytest.fixture(scope="session")
def view() -> StudyView:
    return make_view()
