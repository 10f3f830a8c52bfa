"""The page of `families.py` from what it has kept: every file, and the families at equal latency and equal accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_page import ResultPage, ResultTable
from benchmarks.rows import read_rows
from ghostsearch.machine import processor

LATENCIES, LOST = (0.85, 0.7), (1.0, 3.0)
"""Latency at which accuracies are compared, a share of the baseline's in the same precision, and points of accuracy
lost at which latencies are."""
COMMAND = "command.txt"
"""The command that did a network's steps."""
OVER_INT8 = "int8 over the int8 baseline"
FLATTERED = "The photographs may be among those that the network was trained on. "
FASTER, WITHIN = 1.3, 1.0
"""Aim: times as fast as the int8 baseline, within so many points of it."""


def page(folder: Path, seed: int) -> ResultPage:
    """A network that has been timed, whose name is the folder's."""
    times = {r["name"]: r for r in read_rows(folder / "latencies.csv")}
    rows, net = read_rows(folder / "rows.csv"), folder.name
    shared: dict[str, Any] = {
        "command": (folder / COMMAND).read_text(), "seed": seed,
        "device": f"{processor()}, ONNX Runtime, 1 thread, batch 1",
    }  # fmt: skip
    if not rows:
        found = _only(times)
        fastest = min((r for r in found if r["family"] != "mix"), key=lambda r: r[OVER_INT8])
        return ResultPage(
            name=f"family_times_{net}",
            title=f"Families of compression on {net} without weights: each everywhere, time only",
            claim="Time of the fastest single family (the mix apart), in int8, as a share of the int8 baseline's",
            figure=f"{fastest['family']} {fastest[OVER_INT8]}", tables=[ResultTable("Families", found)],
            notes=[
                "Each family everywhere: ghost(ratio=2, kernel=3), lowrank(rank=0.5), separable(multiplier=2), "
                "width(0.75), every second residual branch dropped or skipped; mix: width and skip. The weights are "
                "random: nothing is said of accuracy. Latency: over the float baseline's, all interleaved in one run, "
                "with its 95 % interval.",
            ], **shared,
        )  # fmt: skip
    points = _points(rows, times)
    return ResultPage(
        name=f"families_{net}", title=f"Families of compression on {net}, float and int8, before any label",
        claim=f"Models {FASTER} times as fast as the int8 baseline and within {WITHIN:g} point of it, without labels",
        figure=_aim(points),
        tables=[
            ResultTable("Families at equal latency and at equal accuracy", _equal(points)),
            ResultTable("The models; latency over the float baseline's [95 %]", _models(rows, times)),
        ],
        notes=(
            "Accuracy is top-1 in percent on test images that nothing here has read; no label was used. "
            f"{FLATTERED * (net == 'lite0')}The program takes, for each family and for all together (mix), the "
            "architecture that loses least by the candidate table within a share of the baseline's latency, predicted "
            "in float or in int8; every model was then scored and timed in both. Its weights come in closed form "
            "from 256 unlabelled images.",
            "Equal latency and accuracy: linear between the baseline and the family's measured models in that "
            "precision, latency as a share of the baseline's in the same precision; – where the family "
            "has no model so fast.",
            "The mix may choose from all families. Where it is below one of them, the table is at fault, whose sums "
            "are off by a factor of 1.4 to 1.6 once their median is known (table_rank_resnet56.md, "
            "table_rank_lite0.md), or chance: the standard error of a difference is some "
            f"{1.5 if net == 'lite0' else 0.3:g} points on these images. The fastest model within a limit is chosen on "
            "test images, and its loss and speed have these errors too.",
            "A width that is not a timed one has an interpolated latency, so a model may miss the share asked for.",
        ),
        **shared,
    )  # fmt: skip


def _points(rows: list[dict[str, str]], times: dict[str, Any]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Per family and precision the (share of the baseline's latency, accuracy) of its models, the baseline first."""
    base, found = rows[0]["file"], dict[tuple[str, str], list[tuple[float, float]]]()
    for row in rows:
        for kind in ("float", "int8"):
            own = found.setdefault((row["family"], kind), [])
            if row["file"]:
                share = float(times[f"{row['file']} {kind}"]["ratio"]) / float(times[f"{base} {kind}"]["ratio"])
                own.append((share, float(row[f"{kind}_percent"])))
    return found


def _equal(points: dict[tuple[str, str], list[tuple[float, float]]]) -> list[dict[str, Any]]:
    shown = []
    for (family, kind), own in points.items():
        start = points["baseline", kind][0]
        if family == "baseline":
            shown.append({"family": family, "precision": kind, **_cells([f"{start[1]:.1f}"] + [""] * 3)})
            continue
        curve = [start, *own]
        values = [_number(accuracy_at(curve, x), ".1f") for x in LATENCIES]
        values += [_number(latency_at(curve, start[1] - lost), ".3f") for lost in LOST]
        shown.append({"family": family, "precision": kind, **_cells(values)})
    return sorted(shown, key=lambda r: r["precision"])


def _cells(values: list[str]) -> dict[str, str]:
    names = [*(f"% at {x:g} of the latency" for x in LATENCIES), *(f"latency at {x:g} points lost" for x in LOST)]
    return dict(zip(names, values, strict=True))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def accuracy_at(curve: list[tuple[float, float]], latency: float) -> float | None:
    """Best accuracy at a latency, linear between models; None where none is so fast."""
    shares, scores = np.array(sorted(curve)).T
    return None if latency < shares[0] else float(np.interp(latency, shares, np.maximum.accumulate(scores)))


def latency_at(curve: list[tuple[float, float]], score: float) -> float | None:
    """Least latency at a score, linear between models; that of the fastest where all score more."""
    scores, shares = np.array(sorted((b, a) for a, b in curve)).T
    least = np.minimum.accumulate(shares[::-1])[::-1]
    return float(np.interp(score, scores, least))


def _models(rows: list[dict[str, str]], times: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "family": r["family"], "solved for": f"{r['share']} of {r['device']}" if r["device"] else "",
            "MACs %": r["macs_percent"] or "none so fast", "float %": r["float_percent"], "int8 %": r["int8_percent"],
            **{f"{k} latency": _share(times[f"{r['file']} {k}"]) if r["file"] else "" for k in ("float", "int8")},
        }
        for r in rows
    ]  # fmt: skip


def _share(row: dict[str, str]) -> str:
    ratio, low, high = (float(row[k]) for k in ("ratio", "low", "high"))
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]"


def _only(times: dict[str, Any]) -> list[dict[str, Any]]:
    base = float(times["baseline int8"]["ratio"])
    families = dict.fromkeys(name.rpartition(" ")[0] for name in times)
    return [
        {
            "family": family, "float ms": f"{float(times[f'{family} float']['ms']):.1f}",
            "int8 ms": f"{float(times[f'{family} int8']['ms']):.1f}",
            **{f"{k} latency": _share(times[f"{family} {k}"]) for k in ("float", "int8")},
            OVER_INT8: f"{float(times[f'{family} int8']['ratio']) / base:.3f}",
        }
        for family in families
    ]  # fmt: skip


def _aim(points: dict[tuple[str, str], list[tuple[float, float]]]) -> str:
    """Whether a model keeps the aim, and the fastest that is within the points."""
    floor = points["baseline", "int8"][0][1] - WITHIN
    kept = [
        (share, b, family) for (family, kind), own in points.items() if kind == "int8" for share, b in own if b >= floor
    ]
    share, score, family = min(kept)
    if family == "baseline":
        return f"none faster within {WITHIN:g} point"
    verdict = "yes" if 1 / share >= FASTER else "no"
    return f"{verdict}: the fastest is {1 / share:.3f} times as fast, {score - floor - WITHIN:+.2f} points ({family})"
