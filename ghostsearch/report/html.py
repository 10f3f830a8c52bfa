"""Pages of ours: templates filled with escaping on, with style, scripts and one plotly.js inside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ghostsearch.units import with_prefix


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # Everything is escaped, whatever the template is called; names come from users' modules and files.
    environment = Environment(
        loader=PackageLoader("ghostsearch.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = lambda value: with_prefix(value, "B")
    return environment


def render(name: str, scripts: Sequence[str], **values: Any) -> str:
    """A page of ours as HTML: template with style and scripts inside, every value escaped."""
    from ghostsearch.version import VERSION

    return (
        _environment()
        .get_template(name)
        .render(
            style=_asset("style.css"),
            scripts=_asset(*(f"{s}.js" for s in scripts)),
            plotly=_plotly_script,
            version=VERSION,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **values,
        )
    )


def _asset(*names: str) -> Markup:
    """Stylesheets or scripts of ours, to be put into a page as they are."""
    texts = [(Path(__file__).parent / "assets" / name).read_text(encoding="utf-8") for name in names]
    return Markup("\n".join(texts))  # noqa: S704 - our own files


def _plotly_script() -> Markup:
    """plotly.js itself (4.8 MB), from the plotly package."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 - the library's own file
