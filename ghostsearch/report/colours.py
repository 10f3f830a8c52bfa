"""One colour per choice, the same on the page and in the pictures, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable

from ghostsearch.space.choice_text import parse_choice

OTHER_COLOURS = ("#ddcc77", "#117733", "#882255", "#332288")
"""For choices that name no colour."""


def choice_colours(texts: Iterable[str]) -> dict[str, str]:
    """A colour per choice string, in reading order: keep, then ghosts by ratio and kernel, then the rest."""
    looks = {text: parse_choice(text).look for text in texts}
    spare = iter(OTHER_COLOURS * len(looks))
    return {
        text: _shade(look.hue, look.shade) if look.hue else next(spare)
        for text, look in sorted(looks.items(), key=lambda item: (item[1].order, item[0]))
    }


def _shade(colour: str, amount: float) -> str:
    """Mixed with white by a positive amount, with black by a negative one."""
    target = 255 if amount > 0 else 0
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(p + (target - p) * abs(amount)):02x}" for p in parts)
