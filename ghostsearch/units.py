"""Numbers and texts as people read them, units included: the one place where the report formats."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"
AGREEMENT, AGAINST_BASELINE = "agreement", " against the baseline"
"""The metric of a classifier without labels, and what other metrics without labels end in."""
PERCENT = ("accuracy", "balanced accuracy", AGREEMENT)
"""Metrics that are shown in percent."""
SHARES = (*PERCENT, "mIoU", "mAP", "COCO mAP")
"""Metrics that lie between 0 and 1."""


def with_prefix(value: float | None, unit: str = "") -> str:
    """Three significant digits and a decimal prefix: 41_400_000 gives `41.4 M`; a dash for None."""
    if value is None:
        return MISSING
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}".rstrip()
    return f"{_three_digits(value)} {unit}".rstrip()


def counted(number: float, noun: str) -> str:
    """So many of a thing: `1 model`, `2 models`, `1.5 epochs`."""
    return f"{number if isinstance(number, int) else f'{number:g}'} {noun}{'s' * (number != 1)}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three significant digits."""
    return MISSING if seconds is None else f"{_three_digits(seconds * 1e3)} ms"


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def score_text(value: float | None, metric: str, error: float | None = None) -> str:
    """A score and its standard error: in percent where it is a share of right answers, else four significant digits."""
    if value is None:
        return MISSING
    if metric in PERCENT:
        return f"{value * 100:.1f} %" if error is None else f"{value * 100:.1f} ± {error * 100:.1f} %"
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def share_text(value: float | None) -> str:
    """A share of the baseline's figure, in whole percent; below 10 % with one decimal."""
    if value is None:
        return MISSING
    return f"{value * 100:.1f} %" if value < 0.0995 else f"{value * 100:.0f} %"


def interval_text(interval: tuple[float, float]) -> str:
    """The 95 % interval of a share, in percent: `[75.2–76.5]`."""
    low, high = (f"{bound * 100:.1f}" for bound in interval)
    return f"\u2009[{low}–{high}]"


def setting_text(value: object) -> str:
    """An option's value: lists by commas, a dash for none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or MISSING
    return MISSING if value is None else str(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column is aligned left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    cells = [[plain_text(c) for c in header], lines[1], *([plain_text(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def plain_text(text: str) -> str:
    """Text that Markdown shows as it stands: no markup, no HTML, no line break, no table cell of its own."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.9995 else f"{value:#.3g}"
