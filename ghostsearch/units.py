"""Numbers as people read them, units included: the one place that formats them."""

from __future__ import annotations

MISSING = "–"


def with_prefix(value: float | None, unit: str = "") -> str:
    """Three significant digits and a decimal prefix: 41_400_000 gives `41.4 M`; a dash for None."""
    if value is None:
        return MISSING
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}".rstrip()
    return f"{_three_digits(value)} {unit}".rstrip()


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three significant digits."""
    return MISSING if seconds is None else f"{_three_digits(seconds * 1e3)} ms"


def score_text(value: float | None, metric: str) -> str:
    """A score: accuracy (a share) in percent, any other metric with four significant digits."""
    if value is None:
        return MISSING
    return f"{value * 100:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def share_text(value: float | None) -> str:
    """A share of the baseline's figure, in whole percent; below 10 % with one decimal."""
    if value is None:
        return MISSING
    return f"{value * 100:.1f} %" if value < 0.0995 else f"{value * 100:.0f} %"


def setting_text(value: object) -> str:
    """An option's value: lists by commas, a dash for none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or MISSING
    return MISSING if value is None else str(value)


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.9995 else f"{value:.3g}"
