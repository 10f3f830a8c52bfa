"""The report page: one HTML file with data, scripts and plotly.js inside, which fetches nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostsearch.records import StudyView
from ghostsearch.report.content import page_content
from ghostsearch.report.links import model_links, study_links
from ghostsearch.report.headline import headline
from ghostsearch.report.history import rung_curves
from ghostsearch.report.markdown import write_markdown
from ghostsearch.report.measured import measured
from ghostsearch.report.outcome import breaches, cost_axes, metric_name, number
from ghostsearch.report.units import score_text, with_prefix

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = ("base", "theme", "front", "strips", "charts", "trials", "main")


def write_report(view: StudyView, directory: Path) -> Path:
    """Write report.html, report.md, front.png and layers.png into a directory; returns the page's path.

    The page is self-contained: it needs no network and no file beside it (download links apart).
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_markdown(view, directory)
    page = directory / "report.html"
    page.write_text(render_page(view, directory), encoding="utf-8")
    return page


def render_page(view: StudyView, directory: Path) -> str:
    """The page's HTML; `directory` is where it will stand, for its download links."""
    digests = [*view.front, *(r.digest for r in view.finalists)]
    content = page_content(view)
    content["files"] = {d: links for d in dict.fromkeys(digests) if (links := model_links(directory, d))}
    return template("study.html").render(
        view=view, content=content, headline=headline(view), measured=measured(view), rungs=rung_curves(view),
        vetoed=vetoed_rows(view), audit=audit_table(view), finalists=finalist_rows(view), files=study_links(directory, view.candidates),
        scripts=scripts(*SCRIPTS), style=asset("style.css"), plotly=plotly_script(), **written(),
    )  # fmt: skip


def finalist_rows(view: StudyView) -> list[dict[str, Any]]:
    """The finalists with test score and latency as measured at the end, and each limit they missed."""
    axes, metric = cost_axes(view), metric_name(view)
    rows = []
    for record in view.finalists:
        score = record.score("test")
        missed = [] if record.digest == "plain" else breaches(view, record)
        if record.digest in view.missed and not missed:
            missed = ["a limit, as the search recorded it"]
        rows.append(
            {
                "id": record.digest, "score": score, "missed": missed,
                "score_text": score_text(score.value if score else None, metric),
                "costs": [axis.text(number(record, axis.column)) for axis in axes],
                "noisy": any(x.noisy for x in record.latencies),
            }
        )  # fmt: skip
    return rows


def vetoed_rows(view: StudyView) -> list[dict[str, str]]:
    """The vetoed choices as text: the interval is of time over the plain layer's."""
    rows = []
    for veto in view.vetoed:
        ratio, interval = veto.get("ratio"), veto.get("interval")
        rows.append(
            {
                **{key: str(veto.get(key, "")) for key in ("site", "choice", "device")},
                "ratio": f"{ratio:.2f}" if isinstance(ratio, float) else "–",
                "interval": " – ".join(f"{x:.2f}" for x in interval) if interval else "–",
            }
        )
    return rows


def audit_table(view: StudyView) -> dict[str, list[Any]]:
    """The audit of the latency model as header and rows of text; errors in percent."""
    titles = {"mape": "mean error (MAPE)", "tau": "rank correlation (Kendall τ)", "worst": "worst error"}
    keys = list(dict.fromkeys(key for row in view.audit for key in row))
    percent = {"mape", "worst"}
    rows = [
        [
            f"{row[key]:.1%}" if key in percent and isinstance(row.get(key), float)
            else f"{row[key]:.2f}" if isinstance(row.get(key), float) else str(row.get(key, ""))
            for key in keys
        ]
        for row in view.audit
    ]  # fmt: skip
    return {"header": [titles.get(key, key) for key in keys], "rows": rows}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Everything is escaped, whatever the template is called; names come from users' modules and files.
    environment = Environment(
        loader=PackageLoader("ghostsearch.report", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["bytes"] = lambda value: with_prefix(value, "B")
    return environment


def template(name: str) -> Any:
    """A page's template, escaping on."""
    return _environment().get_template(name)


def asset(name: str) -> str:
    """A stylesheet or script of ours, to be put into a page as it is."""
    from markupsafe import Markup

    return Markup((Path(__file__).parent / "assets" / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


def scripts(*names: str) -> str:
    """Our scripts in order, as one."""
    from markupsafe import Markup

    return Markup("\n").join(asset(f"{name}.js") for name in names)


def plotly_script() -> str:
    """plotly.js itself (4.8 MB), from the plotly package."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 - the library's own file


def written() -> dict[str, str]:
    """When and by which version a page was written."""
    from ghostsearch.version import VERSION

    return {"version": VERSION, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}
