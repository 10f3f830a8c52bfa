"""ghostsearch: makes convolutional networks cheaper for the device they will run on.

The public names; each is loaded from the file that defines it when it is first used, so that `import ghostsearch`
costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghostsearch.blocks.ghost import GhostConv2d as GhostConv2d
    from ghostsearch.convert.convert import convert as convert
    from ghostsearch.convert.sites import find_sites as find_sites
    from ghostsearch.data import load_data as load_data
    from ghostsearch.errors import GhostsearchError as GhostsearchError
    from ghostsearch.measure.cost import measure_cost as measure_cost
    from ghostsearch.measure.latency import measure_latency as measure_latency
    from ghostsearch.models.loading import load_model as load_model
    from ghostsearch.pareto import pareto_front as pareto_front
    from ghostsearch.presets import load_preset as load_preset
    from ghostsearch.report.page import write_report as write_report
    from ghostsearch.saved import load as load
    from ghostsearch.saved import save as save
    from ghostsearch.search.config import RunConfig as RunConfig
    from ghostsearch.search.run import search as search
    from ghostsearch.search.view import load_study as load_study
    from ghostsearch.space import Architecture as Architecture
    from ghostsearch.space import SearchSpace as SearchSpace

_HOMES = {
    "Architecture": "space",
    "GhostConv2d": "blocks.ghost",
    "GhostsearchError": "errors",
    "RunConfig": "search.config",
    "SearchSpace": "space",
    "convert": "convert.convert",
    "find_sites": "convert.sites",
    "load": "saved",
    "load_data": "data",
    "load_model": "models.loading",
    "load_preset": "presets",
    "load_study": "search.view",
    "measure_cost": "measure.cost",
    "measure_latency": "measure.latency",
    "pareto_front": "pareto",
    "save": "saved",
    "search": "search.run",
    "write_report": "report.page",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "tune":
        return import_module("ghostsearch.tune")
    if name not in _HOMES:
        raise AttributeError(f"module 'ghostsearch' has no attribute {name!r}")
    return getattr(import_module(f"ghostsearch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__name__"]


class _Package(ModuleType):
    """Keeps `convert` and `search` the functions: importing a file of the folders so named would rebind them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
