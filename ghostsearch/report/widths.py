"""How wide each site of a model is, from the widths of its coupling groups."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import StudyView
from ghostsearch.space.choice import parse_width
from ghostsearch.space.costs import kept_width
from ghostsearch.space.preset import load_preset


def width_shares(view: StudyView, groups: Mapping[str, str]) -> dict[str, float]:
    """Share of its output channels that each narrowed site keeps; sites at full width are left out.

    `groups` maps a group's name to its width choice. Where the study's preset can no longer be read, the
    share is the one asked for, without the rounding to the preset's multiple.
    """
    multiple = _width_multiple(str(view.config.get("space", "")))
    shares: dict[str, float] = {}
    for group in view.anatomy.get("groups", ()):
        text = groups.get(group["name"])
        if text is None:
            continue
        channels, share = group["channels"], parse_width(text).share
        if multiple:
            share = kept_width(channels, share, multiple, group.get("divisions", 1)) / channels
        shares |= dict.fromkeys(group["members"], share)
    return shares


@lru_cache(maxsize=64)
def _width_multiple(space: str) -> int | None:
    try:
        return load_preset(space).width_multiple
    except GhostsearchError:
        return None
