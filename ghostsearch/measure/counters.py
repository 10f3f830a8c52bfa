"""fvcore's, thop's and torch's counts of one model side by side, and operator by operator why they differ."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError, in_a_line
from ghostsearch.graph.capture import batch_size, copied, moved
from ghostsearch.measure.cost import count_operators, plain_attention
from ghostsearch.measure.inputs import Flat, flat_inputs
from ghostsearch.shown import quiet

COUNTERS = ("torch", "fvcore", "thop")

KINDS: Mapping[str, str] = {
    "convolution": r"conv",
    "linear and matrix product": r"linear|addmm|^mm$|bmm|matmul|einsum|^mv$|addmv|dot|attention|functional"
    r"|bilinear$|rnn|lstm|gru",
    "batch norm": r"batch_?norm",
    "other norm": r"norm",
    "softmax": r"softmax|softmin",
    "upsampling": r"upsampl|grid_sampler",
    "pooling": r"pool",
    "activation": r"prelu",
}
"""Kind of operator by its name in any of the three counters (lower case); the first pattern found decides."""

REASONS: Mapping[str, str] = {
    "convolution": "thop does not see a convolution that is called as a function, not as a module",
    "linear and matrix product": "thop adds the softmax to a MultiheadAttention's products, and counts a "
    "product that is no module only outside modules that have a rule of their own",
    "batch norm": "per element fvcore counts 1 (2 in training mode), thop 4 (2 without affine), "
    "torch none: it folds into the convolution before it",
    "other norm": "per element fvcore counts 5 (4 without affine), thop 4 (2 without affine), torch none",
    "softmax": "thop counts 3 per element less one per row, the others none",
    "upsampling": "fvcore counts 4 per output of a bilinear one, thop 11, torch none",
    "pooling": "average pooling: fvcore counts one per input of adaptive ones only, thop one per input of a "
    "window and one per output, torch none; max pooling is counted by none",
    "activation": "thop counts one per element of a PReLU, the others none",
    "other": "only one of the counters has a rule for it",
}


@dataclass(frozen=True)
class Difference:
    """One kind of operator with each counter's multiply-adds per image, and why they are not equal."""

    operator: str
    macs: dict[str, int]
    reason: str
    """Empty where all three agree."""


@dataclass(frozen=True)
class CounterComparison:
    """Multiply-adds per image by each counter; `macs['torch']` is what Cost.macs holds."""

    macs: dict[str, int]
    operators: tuple[Difference, ...]
    """Every kind of operator that some counter counts; the columns sum to `macs`."""
    uncounted: dict[str, tuple[str, ...]]
    """Per counter the operators (thop: modules) it has no rule for: they are in no sum."""
    failed: dict[str, str]
    """Counters that could not run on this model, and why; they are not in `macs`."""

    @property
    def reason(self) -> str:
        """One sentence: what makes the totals differ most."""
        differing = [d for d in self.operators if d.reason]
        parts = [f"{c} could not count it ({why})" for c, why in self.failed.items()]
        if differing:
            worst = max(differing, key=lambda d: max(d.macs.values()) - min(d.macs.values()))
            parts.insert(0, f"{worst.operator}: {worst.reason}")
        return "; ".join(parts) or "all counters agree"


def compare_counters(model: nn.Module, example: Any) -> CounterComparison:
    """Count a model by torch's FlopCounterMode (halved), fvcore and ultralytics-thop, each on a copy in eval
    mode.

    example: as for measure_cost. A counter that fails is named with its reason; raises GhostsearchError when
    the model's forward fails, so that none can count it.
    """
    ours, images = count_operators(model, example), batch_size(example)
    found: dict[str, Mapping[str, int]] = {"torch": ours.by_operator}
    uncounted, failed = {"torch": ours.uncounted}, {}
    foreign: dict[str, Callable[[Flat, tuple[Any, ...]], tuple[Counter[str], tuple[str, ...]]]] = {
        "fvcore": _fvcore,
        "thop": _thop,
    }
    on_cpu = moved(example, "cpu")
    for name, count in foreign.items():
        replica = Flat(copied(model).to("cpu"), on_cpu).eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), plain_attention():
                found[name], uncounted[name] = count(replica, flat_inputs(on_cpu))
        except GhostsearchError:
            raise
        # fvcore traces with the JIT and thop walks modules: each fails in its own ways on exotic models.
        except Exception as error:  # noqa: BLE001
            failed[name] = in_a_line(error, 160)
    macs = {name: sum(counts.values()) // images for name, counts in found.items()}
    return CounterComparison(macs, _differences(found, uncounted, images), uncounted, failed)


def _differences(
    found: Mapping[str, Mapping[str, int]], uncounted: Mapping[str, tuple[str, ...]], images: int
) -> tuple[Difference, ...]:
    table: dict[str, Counter[str]] = {}
    for counter, counts in found.items():
        for operator, n in counts.items():
            table.setdefault(_kind(operator), Counter())[counter] += n
    rows = []
    for kind, by_counter in table.items():
        macs = {c: by_counter[c] // images for c in found}
        if any(macs.values()):
            gaps = [f"{c} has no rule for {op}" for c in found for op in uncounted[c] if _kind(op) == kind]
            reason = "; ".join((*gaps, REASONS[kind])) if len(set(macs.values())) > 1 else ""
            rows.append(Difference(kind, macs, reason))
    return tuple(sorted(rows, key=lambda row: -max(row.macs.values())))


def _kind(operator: str) -> str:
    return next((kind for kind, names in KINDS.items() if re.search(names, operator.lower())), "other")


def _fvcore(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Counter[str], tuple[str, ...]]:
    from fvcore.nn import FlopCountAnalysis

    with quiet("fvcore.nn.jit_analysis"):
        analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False).tracer_warnings("none")
        counts = Counter({name: int(n) for name, n in analysis.by_operator().items()})
        # Operators without a handle that multiply nothing by a weight (add, relu, …) are no gap of the count.
        gaps = {op for op in analysis.unsupported_ops() if not _multiplies_nothing(op)}
    return counts, tuple(sorted(gaps))


HARMLESS = re.compile(
    r"^aten::(_*(add|sub|mul|div|rsub|relu|relu6|clamp|clamp_min|clamp_max|hardtanh|sigmoid|hardsigmoid|hardswish|silu|gelu|tanh|softmax"
    r"|log_softmax|mean|sum|max|min|pad|pow|sqrt|rsqrt|exp|log|abs|neg|cat|chunk|flatten|dropout|max_pool[123]d|avg_pool[123]d"
    r"|feature_dropout|elu|leaky_relu|softplus|mish|expand_as|ones_like|zeros_like|ones|zeros|arange|fill|floor|ceil|floor_divide"
    r"|remainder|gt|lt|ge|le|eq|ne|where|masked_fill|bitwise_and|logical_and|logical_not|adaptive_max_pool[123]d|prod|unflatten|roll"
    r"|meshgrid|stack|repeat|repeat_interleave|index|gather|cumsum|argmax|topk|sort|embedding|full|fill|norm|linalg_vector_norm|all)_?)$|^prim::"
)
"""Operators that hold no multiply-add of a weight: elementwise, reductions, data movement."""


def _multiplies_nothing(operator: str) -> bool:
    return HARMLESS.match(operator) is not None


def _thop(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Counter[str], tuple[str, ...]]:
    from thop import profile as thop_profile
    from thop.profile import register_hooks, zero_ops

    counts: Counter[str] = Counter()

    def recording(rule: Callable[..., Any]) -> Callable[..., Any]:
        def record(module: Any, x: Any, y: Any) -> None:
            before = float(module.total_ops)
            rule(module, x, y)
            counts[type(module).__name__] += round(float(module.total_ops) - before)

        return record

    rules = {kind: recording(rule) for kind, rule in register_hooks.items() if rule is not zero_ops}
    unknown = sorted(
        {
            type(m).__name__
            for m in model.modules()
            if not list(m.children())
            and not any(t in register_hooks for t in type(m).__mro__)
            and any(True for _ in m.parameters(recurse=False))
        }
    )
    with contextlib.redirect_stdout(io.StringIO()):
        total, _ = thop_profile(model, inputs=inputs, custom_ops=rules, verbose=False)
    if rest := round(total) - sum(counts.values()):
        counts["functional"] = rest
    return counts, tuple(unknown)
