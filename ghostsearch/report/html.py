"""Self-contained pages: templates filled with escaping on, with style, palette, scripts and one plotly.js inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ghostsearch.report.figures import DARK, LIGHT
from ghostsearch.version import VERSION


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # Everything is escaped, whatever the template is called; names come from users' modules and files.
    return Environment(
        loader=PackageLoader("ghostsearch.report", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(name: str, scripts: Sequence[str], content: Mapping[str, Any], *, plots: bool = True, **values: Any) -> str:
    """A page as HTML: every value is escaped, `content` is what the scripts read; no plotly.js without `plots`."""
    from plotly.offline import get_plotlyjs

    colours = {"dark": dict(zip(LIGHT.values(), DARK.values(), strict=True)), "ring": LIGHT["ring"]}
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(_palette() + _asset("style.css")),  # noqa: S704 - our own files
            scripts=Markup("\n".join(_asset(f"{s}.js") for s in scripts)),  # noqa: S704 - our own files
            plotly=Markup(get_plotlyjs()) if plots else "",  # noqa: S704 - the library's own file
            content=_finite({**colours, **content}),
            version=VERSION,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **values,
        )
    )


def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def _palette() -> str:
    """The colours as CSS variables: light, dark where the system asks for it, and dark where the reader does."""
    light, dark = (" ".join(f"--{k}: {v};" for k, v in colours.items()) for colours in (LIGHT, DARK))
    dark += " color-scheme: dark;"
    return (
        f":root {{ {light} color-scheme: light; }}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {dark} }}\n'
    )


def _finite(data: Any) -> Any:
    """The data with NaN and infinities, which JSON does not have, as null."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
