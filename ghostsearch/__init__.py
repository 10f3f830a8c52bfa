"""ghostsearch: makes convolutional networks cheaper for the device they will run on.

The public names; each is loaded from the file that defines it when it is first used, so that `import ghostsearch`
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghostsearch.blocks.ghost import GhostConv2d as GhostConv2d
    from ghostsearch.data.load import load_data as load_data
    from ghostsearch.errors import GhostsearchError as GhostsearchError
    from ghostsearch.in_memory import compress as compress
    from ghostsearch.in_memory import convert as convert
    from ghostsearch.in_memory import export_model as export_model
    from ghostsearch.in_memory import measure_model as measure_model
    from ghostsearch.in_memory import save as save
    from ghostsearch.in_memory import search as search
    from ghostsearch.measure.cost import measure_cost as measure_cost
    from ghostsearch.measure.latency import measure_latency as measure_latency
    from ghostsearch.measure.setting import Setting as Setting
    from ghostsearch.models.load import load_model as load_model
    from ghostsearch.pareto import pareto_front as pareto_front
    from ghostsearch.report.page import write_report as write_report
    from ghostsearch.space.architecture import Architecture as Architecture
    from ghostsearch.space.architecture import SearchSpace as SearchSpace
    from ghostsearch.space.preset import load_preset as load_preset
    from ghostsearch.study.config import RunConfig as RunConfig
    from ghostsearch.study.directory import load_study as load_study
    from ghostsearch.study.sampler import TableSampler as TableSampler
    from ghostsearch.surgery.saved import load as load
    from ghostsearch.surgery.sites import find_sites as find_sites
    from ghostsearch.training.recipe import Recipe as Recipe

_HOMES = {
    "Architecture": "space.architecture",
    "GhostConv2d": "blocks.ghost",
    "GhostsearchError": "errors",
    "Recipe": "training.recipe",
    "RunConfig": "study.config",
    "SearchSpace": "space.architecture",
    "Setting": "measure.setting",
    "TableSampler": "study.sampler",
    "compress": "in_memory",
    "convert": "in_memory",
    "export_model": "in_memory",
    "find_sites": "surgery.sites",
    "load": "surgery.saved",
    "load_data": "data.load",
    "load_model": "models.load",
    "load_preset": "space.preset",
    "load_study": "study.directory",
    "measure_cost": "measure.cost",
    "measure_latency": "measure.latency",
    "measure_model": "in_memory",
    "pareto_front": "pareto",
    "save": "in_memory",
    "search": "in_memory",
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
