"""Compares networks: params, MACs and latency measured alike, accuracy as published; as table, page and file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, ValidationError
from torch import nn

from ghostsearch.errors import GhostsearchError, told_as
from ghostsearch.files import read_json, write_text
from ghostsearch.graph.detector import set_side
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.onnx_graph.file import check_device, example_of
from ghostsearch.measure.onnx_graph.module import OnnxModule
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.shares import shares_by_kind
from ghostsearch.models.load import LoadedModel, known_models, load_model, wanted_input
from ghostsearch.models.options import ModelOptions
from ghostsearch.options import Frozen
from ghostsearch.records import Cost, Latency
from ghostsearch.report.tables import narrow_table
from ghostsearch.shown import Progress
from ghostsearch.study.directory import load_study
from ghostsearch.study.subject import open_subject
from ghostsearch.surgery.saved import SavedModel
from ghostsearch.units import (
    MISSING,
    counted,
    markdown_table,
    milliseconds,
    plain_text,
    score_text,
    share_text,
    with_prefix,
)

if TYPE_CHECKING:
    from rich.table import Table

COMPACT_FILE = "compact.json"


class Published(Frozen):
    """An accuracy as its publisher states it, reached with that publisher's training: never measured here."""

    accuracy: float
    """Top-1, a share from 0 to 1."""
    dataset: str
    source: str
    """Who states it, and of which weights."""


class ComparedModel(Frozen):
    """One row of the comparison."""

    name: str
    size: str = Field(coerce_numbers_to_str=True)
    """Height × width of the image it was measured on, in pixels."""
    cost: Cost
    latency: Latency
    shares: tuple[dict[str, Any], ...]
    """By kind of layer: kind, layers, params, macs and their shares (measure/shares.py); none of an ONNX file."""
    published: Published | None = None
    made_of: str = ""
    """What a ghostsearch directory holds: its baseline and choices; empty for a network by name."""

    def share(self, kind: str, of: str = "macs") -> float | None:
        """The share of the MACs (or params) in kinds of layer that start so: `conv 1x1`, `depthwise`."""
        if not self.shares:
            return None
        return sum(float(row[f"{of}_share"]) for row in self.shares if row["kind"].startswith(kind))


def compare_models(
    names: Sequence[str],
    *,
    device: str,
    setting: Setting,
    size: int | str | None = None,
    allow_code: bool = False,
    progress: Progress | None = None,
    mark_in: Path | None = None,
) -> list[ComparedModel]:
    """Measure models beside the first one on one device, interleaved, all on images of one size, the first one's own.

    A name is what `load_model` knows, a bare torchvision or timm name, a directory that ghostsearch wrote, a study (its
    chosen model) or an ONNX file. The first model is timed against itself too: how far its ratio is from 1 is the
    measurement's own error. mark_in: the directory that the rows are for.
    Raises GhostsearchError when a name is unknown, twice there, or a model cannot take the first one's images, and
    where `mark_in` holds no study.
    """
    if mark_in:
        load_study(mark_in)
    if len(set(names)) != len(names) or not names:
        raise GhostsearchError(f"compare takes one or more different models; got {', '.join(names) or 'none'}")
    loaded = {name: find_model(name, size, allow_code=allow_code) for name in names}
    shape = wanted_input(loaded[names[0]].input, size)
    example = example_of(replace(loaded[names[0]], input=shape))
    for model in loaded.values() if size is not None else ():
        set_side(model.module, shape.dims)
    if isinstance(example, tuple):
        raise GhostsearchError(f"{names[0]} takes {len(example)} inputs; compare models of one image each")
    for name, model in loaded.items():
        check_device(model, device)
        _check_input(name, model, example)
    modules: dict[str, nn.Module] = {name: model.module.eval() for name, model in loaded.items()}
    latencies = measure_latency(
        modules, example, device=device, baseline=modules[names[0]], setting=setting, progress=progress
    )
    rows = []
    for name, model in loaded.items():
        known = not isinstance(modules[name], OnnxModule)
        shares = tuple(dict(row) for row in shares_by_kind(modules[name], example)) if known else ()
        rows.append(ComparedModel(
            name=name, size="×".join(map(str, shape.dims)), cost=measure_cost(modules[name], example),
            latency=latencies[name], shares=shares, published=published_accuracy(model), made_of=made_of(model),
        ))  # fmt: skip
    return rows


def find_model(name: str, size: int | str | None = None, *, allow_code: bool = False) -> LoadedModel:
    """As `open_subject`, for a bare torchvision or timm name too; raises GhostsearchError.

    A directory whose baseline is the user's own code is loaded only with `allow_code`.
    """
    if Path(name).exists() or ":" in name or name.lower().endswith(".onnx"):
        return open_subject(name, None if Path(name).is_dir() else ModelOptions(size=size), allow_code=allow_code)
    for source in ("torchvision", "ghostsearch", "timm"):
        if f"{source}:{name}" in known_models(f"{source}:"):
            return load_model(f"{source}:{name}", size=size)
    return load_model(f"torchvision:{name}", size=size)  # raises, naming the nearest ones


def made_of(model: LoadedModel) -> str:
    """The baseline and how often each choice was taken, for a ghostsearch directory; empty for other networks."""
    if not isinstance(model, SavedModel):
        return ""
    taken = Counter(map(str, (*model.architecture.sites.values(), *model.architecture.groups.values())))
    return f"{model.spec} with " + (", ".join(f"{n} × {choice}" for choice, n in taken.items()) or "nothing changed")


def _check_input(name: str, model: LoadedModel, example: torch.Tensor) -> None:
    """Raise GhostsearchError when a model cannot take the first one's images, x: (1, C, H, W)."""
    if model.input.channels != example.shape[1]:
        raise GhostsearchError(
            f"{name} takes {model.input.channels} channels, the first model {example.shape[1]}; "
            "compare models of one kind of image"
        )
    refused = f"{name} does not take the first model's images of {tuple(example.shape[1:])}"
    with torch.no_grad(), told_as(lambda why: f"{refused} ({why}); give --size", 160):
        model.module.eval()(example)


def published_accuracy(model: LoadedModel) -> Published | None:
    """The top-1 accuracy in torchvision's metadata of the newest weights of a builder, for its own classes only."""
    source, _, name = model.spec.partition(":")
    if source != "torchvision" or model.classes is not None or getattr(model, "architecture", None):
        return None
    from torchvision.models import get_model_weights

    for weights in reversed(list(get_model_weights(name))):
        for dataset, metrics in weights.meta.get("_metrics", {}).items():
            if "acc@1" in metrics:
                stated = f"torchvision {weights.name}"
                return Published(accuracy=metrics["acc@1"] / 100, dataset=dataset, source=stated)
    return None


def compact_rows(models: Sequence[ComparedModel]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: cost, latency, published accuracy, and where the params and MACs sit."""
    header = ["model", "params", "MACs", "latency", "÷ first", "publ.", "1×1 params", "1×1 MACs", "dw MACs"]
    rows = []
    for model in models:
        ratio, published = model.latency.ratio, model.published
        rows.append([
            model.name, with_prefix(model.cost.params), with_prefix(model.cost.macs),
            "~" * model.latency.noisy + milliseconds(model.latency.median_s),
            MISSING if ratio is None else f"{ratio:.2f}",
            score_text(published.accuracy, "accuracy") if published else MISSING,
            share_text(model.share("conv 1x1", "params")), share_text(model.share("conv 1x1")),
            share_text(model.share("depthwise")),
        ])  # fmt: skip
    return header, rows


def conditions(models: Sequence[ComparedModel]) -> str:
    """Device, threads, batch and image size of the comparison."""
    first = models[0].latency
    threads = counted(first.threads, "thread")
    return f"{first.device}, {threads}, batch {first.batch}, {models[0].size} pixels"


def table_note(models: Sequence[ComparedModel]) -> str:
    """What the columns mean and where the published accuracies come from."""
    sources = sorted({f"{m.published.source}, {m.published.dataset}" for m in models if m.published})
    notes = [f"{m.name}: {m.made_of}" for m in models if m.made_of]
    notes += ["1×1, dw: share of the params or MACs in 1×1 and in depthwise convolutions"]
    if any(m.latency.noisy for m in models):
        notes.append("~ noisy: the quartiles lie more than a tenth of the median apart")
    if sources:
        notes.append(f"publ.: top-1 as published by {'; '.join(sources)}, with other training, not measured here")
    return ". ".join(notes) + "."


def compact_table(models: Sequence[ComparedModel]) -> Table:
    """The rows as a rich table."""
    header, rows = compact_rows(models)
    # Figures keep their units beside them, so that a narrow terminal breaks headings only.
    rows = [[cell.replace(" ", "\u00a0") for cell in row] for row in rows]
    return narrow_table(conditions(models), header, rows, table_note(models))


def write_tables(models: Sequence[ComparedModel], directory: Path) -> None:
    """Write the rows as compare.md, with their conditions and note, and as compare.csv."""
    import pandas as pd

    header, rows = compact_rows(models)
    title = f"# Compact networks beside {plain_text(models[0].name)}"
    parts = (title, plain_text(conditions(models)), markdown_table(header, rows), plain_text(table_note(models)))
    write_text(directory / "compare.md", "\n\n".join(parts) + "\n")
    write_text(directory / "compare.csv", pd.DataFrame(rows, columns=header).to_csv(index=False))


def write_compact(models: Sequence[ComparedModel], directory: Path) -> Path:
    """Keep the rows beside a study, so that its page can mark them; returns the file's path."""
    path = directory / COMPACT_FILE
    write_text(path, json.dumps([m.model_dump(mode="json") for m in models]))
    return path


def read_compact(directory: Path) -> tuple[ComparedModel, ...]:
    """The rows kept beside a study, none where there is no such file; raises GhostsearchError for another form."""
    path = directory / COMPACT_FILE
    if not path.is_file():
        return ()
    data = read_json(path)
    try:
        return tuple(ComparedModel.model_validate(row) for row in (data if isinstance(data, list) else [data]))
    except ValidationError:
        raise GhostsearchError(
            f"{path}: not written by 'ghostsearch compare', or by another version; delete it and compare again"
        ) from None
