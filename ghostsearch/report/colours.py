"""One colour a choice, the same on the page and in the pictures, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable

from ghostsearch.space.choice import Choice, Ghost, Keep, LowRank, parse_choice

KEEP_COLOUR = "#a8b0b9"
RATIO_COLOURS = {2: "#4477aa", 3: "#44aa99", 4: "#ee8833", 5: "#bb4433"}
"""Hue by ratio, from Paul Tol's and Okabe and Ito's sets; above 5 the last."""
CHEAP_COLOURS = {"affine": "#88ccee", "wavelet": "#999933"}
LOW_RANK_COLOUR = "#aa3377"
OTHER_COLOURS = ("#ddcc77", "#117733", "#882255", "#332288")
"""For choices that came after this file."""


def choice_colours(texts: Iterable[str]) -> dict[str, str]:
    """A colour per choice string, in reading order: keep, then ghosts by ratio and kernel, then the rest."""
    choices = {text: parse_choice(text) for text in texts}
    order = sorted(choices, key=lambda text: _reading_order(choices[text], text))
    spare = iter(OTHER_COLOURS * len(order))
    return {text: _colour(choices[text]) or next(spare) for text in order}


def short_name(text: str) -> str:
    """A choice in the few letters that fit into a cell: `g2·3` for ghost(ratio=2, kernel=3)."""
    choice = parse_choice(text)
    match choice:
        case Ghost(ratio=s, kernel=d, cheap="conv"):
            return f"g{s}·{d}"
        case Ghost(ratio=s, cheap=cheap):
            return f"g{s}{cheap[0]}"
        case LowRank(rank=rank):
            return f"r{rank:g}"
    return "" if isinstance(choice, Keep) else choice.name[:3]


def _reading_order(choice: Choice, text: str) -> tuple[int, float, int, str]:
    match choice:
        case Keep():
            return 0, 0, 0, text
        case Ghost(ratio=s, kernel=d):
            return 1, s, d, text
        case LowRank(rank=rank):
            return 2, -rank, 0, text
    return 3, 0, 0, text


def _colour(choice: Choice) -> str | None:
    """Hue by family and ratio; a larger cheap kernel or a lower rank is darker."""
    match choice:
        case Keep():
            return KEEP_COLOUR
        case Ghost(ratio=s, kernel=d, cheap=cheap):
            base = RATIO_COLOURS[min(s, max(RATIO_COLOURS))] if cheap == "conv" else CHEAP_COLOURS[cheap]
            return _shade(base, {1: 0.42, 3: 0.0, 5: -0.25}.get(d, -0.45))
        case LowRank(rank=rank):
            return _shade(LOW_RANK_COLOUR, 0.7 * (rank - 0.5))
    return None


def _shade(colour: str, amount: float) -> str:
    """Mixed with white by a positive amount, with black by a negative one."""
    target = 255 if amount > 0 else 0
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(p + (target - p) * abs(amount)):02x}" for p in parts)
