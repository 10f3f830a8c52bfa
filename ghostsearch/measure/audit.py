"""How far a latency prediction can be trusted: unseen random architectures, built and measured on the device."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.cells import Correction
from ghostsearch.measure.cost_table import encode
from ghostsearch.measure.inputs import batched
from ghostsearch.measure.latency import measure_pairs
from ghostsearch.measure.latency_table import UNCORRECTED, LatencyTable
from ghostsearch.measure.profiling import Network
from ghostsearch.records import Latency
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.surgery.convert import convert

FIT_MODELS = 10
AUDIT_MODELS = 30
FEWEST = 3
TOGETHER = 5
"""Architectures timed in one interleaved run with the baseline: more would hold too many models in memory."""
MODEL_S = 4.0
"""Timing an architecture at most, in seconds."""
NARROW = 0.006
"""Width of the ratio's interval at which timing one stops: architectures of one net often differ by a hundredth."""
RIDGE = 1e-2


@dataclass(frozen=True)
class PredictorError:
    """One predictor's errors over the audited architectures."""

    predictor: str
    mape: float
    """Mean absolute error over the measured latency, as a share."""
    tau: float
    """Kendall's rank correlation with the measured latencies."""
    worst: float
    """Largest absolute error, as a share."""


@dataclass(frozen=True)
class Audit:
    """Predictors side by side, and what each architecture was predicted and measured at."""

    rows: tuple[PredictorError, ...]
    models: tuple[dict[str, Any], ...]
    """Per architecture: digest, macs_ratio, measured ratio to baseline, its interval, noisy, and each prediction."""
    baseline_s: float


def random_architectures(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Architectures spread from almost baseline to changed everywhere.

    Each draws its own share of changed places, then a random choice for each of them: choices drawn place by place
    alone would all cost about the same, and a ranking of equals says nothing.
    """
    rng = random.Random(seed)  # noqa: S311
    found: dict[str, Architecture] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        share = rng.random()

        def drawn(table: Any, share: float = share) -> dict[str, str]:
            return {name: rng.choice(texts[1:]) for name, texts in table.items() if rng.random() < share}

        architecture = space.architecture(drawn(space.sites), drawn(space.groups))
        if not architecture.is_baseline:
            found[architecture.digest] = architecture
    return list(found.values())


def fit_correction(
    table: LatencyTable,
    network: Network,
    *,
    count: int = FIT_MODELS,
    model_s: float = MODEL_S,
    progress: Progress | None = None,
) -> Correction:
    """Measure a few random architectures and store what the layers' sum misses (concatenations, caches) on them."""
    correction = measured_correction(table, network, count=count, model_s=model_s, progress=progress)
    table.store.correct(table.digest, correction)
    table.store.write()
    return correction


def measured_correction(
    table: LatencyTable, network: Network, *, count: int, model_s: float, progress: Progress | None = None
) -> Correction:
    """Measure a few random architectures for a correction; nothing is stored."""
    architectures = random_architectures(table.space, count, 0)
    measured = measure_architectures(table, network, architectures, model_s=model_s, seed=0, progress=progress)
    return fitted_correction(table, architectures, measured)


def fitted_correction(
    table: LatencyTable, architectures: Sequence[Architecture], measured: Sequence[Latency]
) -> Correction:
    """The end-to-end correction by measured architectures.

    Linear in the table's terms, through the baseline, by ridge regression towards taking the layers' sum as it is.
    """
    baseline_s = float(np.median([t for x in measured for t in x.baseline_times_s]))
    ratios = np.array([x.ratio for x in measured])
    terms = table.terms(encode(table.space, architectures))
    prior = np.array(UNCORRECTED)
    gram = terms.T @ terms + RIDGE * np.eye(len(prior))
    coefficients = prior + np.linalg.solve(gram, terms.T @ (ratios - 1 - terms @ prior))
    error = float(np.abs((1 + terms @ coefficients) / ratios - 1).max())
    return Correction(
        coefficients=tuple(coefficients.tolist()), baseline_s=baseline_s, models=len(architectures), error=error
    )


def audit(
    table: LatencyTable,
    network: Network,
    *,
    count: int = AUDIT_MODELS,
    model_s: float = MODEL_S,
    progress: Progress | None = None,
) -> Audit:
    """Measure random architectures that the correction has not seen and compare each predictor with them.

    Beside the table: MACs alone (latency proportional to MACs), and interpolation over FLOPs between the baseline
    and the cheapest architecture, both measured, as NVIDIA ModelOpt's search does. Raises GhostsearchError where the
    space has too few architectures.
    """
    unseen, cheapest = unseen_architectures(table.space, count), cheapest_architecture(table)
    if len(unseen) < FEWEST:
        raise GhostsearchError(
            f"an audit wants {FEWEST} architectures that the correction has not seen, and the space of "
            f"{table.space.size} has {len(unseen)}; choose a larger --space"
        )
    measured = measure_architectures(table, network, [*unseen, cheapest], model_s=model_s, seed=1, progress=progress)
    return compare_predictors(table, unseen, measured[:-1], cheapest, measured[-1])


def unseen_architectures(space: SearchSpace, count: int, seed: int = 1) -> list[Architecture]:
    """Random architectures, none of them among those that corrections are fitted on."""
    seen = {a.digest for a in random_architectures(space, FIT_MODELS, 0)}
    return [a for a in random_architectures(space, count + FIT_MODELS, seed) if a.digest not in seen][:count]


def compare_predictors(
    table: LatencyTable,
    architectures: Sequence[Architecture],
    measured: Sequence[Latency],
    cheapest: Architecture,
    cheapest_measured: Latency,
) -> Audit:
    """Each predictor's errors over measured architectures."""
    ratios = np.array([x.ratio for x in measured])
    codes = encode(table.space, [*architectures, cheapest])
    macs = table.costs.predict_codes(table.space, codes)[1] / table.costs.baseline.macs
    ends = [cheapest_measured.ratio or 1.0, 1.0]
    predictions = {
        "latency table": table.predict_ratios(codes)[:-1],
        "MACs": macs[:-1],
        "interpolation over FLOPs": np.interp(macs[:-1], [macs[-1], 1.0], ends),
    }
    models = tuple(
        {
            "digest": a.digest, "macs_ratio": float(macs[i]), "measured": float(ratios[i]),
            "interval": x.ratio_interval, "noisy": x.noisy, **{k: float(v[i]) for k, v in predictions.items()},
        }
        for i, (a, x) in enumerate(zip(architectures, measured, strict=True))
    )  # fmt: skip
    rows = tuple(predictor_errors(name, values, ratios) for name, values in predictions.items())
    return Audit(rows, models, float(np.median([t for x in measured for t in x.baseline_times_s])))


def measure_architectures(
    table: LatencyTable,
    network: Network,
    architectures: Sequence[Architecture],
    *,
    model_s: float,
    seed: int,
    progress: Progress | None,
) -> list[Latency]:
    """Latencies of architectures, a few at a time, each run interleaved with the baseline."""
    store, repeated = table.store, batched(network.example, table.store.setting.batch)
    latencies: list[Latency] = []
    for start in range(0, len(architectures), TOGETHER):
        some = architectures[start : start + TOGETHER]
        built = {
            str(start + i): convert(
                network.model,
                a,
                example=network.example,
                anatomy=network.anatomy,
                width_multiple=table.space.width_multiple,
                seed=seed,
            )
            for i, a in enumerate(some)
        }
        found = measure_pairs(
            {name: (some_model, repeated) for name, some_model in built.items()},
            (network.model, repeated),
            device=store.device,
            setting=store.setting.but(
                time_limit=model_s * (len(some) + 1), narrow=NARROW, seed=store.setting.seed + seed + start
            ),
        )
        latencies += found.values()
        if progress:
            progress(len(latencies), len(architectures), f"{len(latencies)} of {len(architectures)} architectures")
    return latencies


def cheapest_architecture(table: LatencyTable) -> Architecture:
    """The architecture of fewest MACs that takes one choice everywhere and the least width."""
    space = table.space
    choices = sorted({text for texts in space.sites.values() for text in texts[1:]})
    narrow = {name: texts[-1] for name, texts in space.groups.items()}
    candidates = [
        Architecture.of({path: text for path, texts in space.sites.items() if text in texts}, narrow)
        for text in choices
    ] or [Architecture.of({}, narrow)]
    macs = table.costs.predict_codes(space, encode(space, candidates))[1]
    return candidates[int(np.argmin(macs))]


def predictor_errors(name: str, predicted: np.ndarray, measured: np.ndarray) -> PredictorError:
    """How far predictions are from what was measured, (A,) each, both as ratios to the baseline."""
    from scipy.stats import kendalltau

    errors = np.abs(predicted / measured - 1)
    tau = kendalltau(predicted, measured).statistic
    return PredictorError(name, float(errors.mean()), float(tau), float(errors.max()))
