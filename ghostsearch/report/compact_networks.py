"""Compact networks beside yours: params, MACs and latency measured alike, accuracy as published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.export.saved import SavedModel, load_directory
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.shares import shares_by_kind
from ghostsearch.models.load import LoadedModel, example_input, known_models, load_model
from ghostsearch.report.compact import ComparedModel, Published

Progress = Callable[[int, int, str], None]


def compare_models(
    names: Sequence[str],
    *,
    device: str = "onnxruntime:cpu",
    threads: int = 1,
    batch: int = 1,
    size: int | None = None,
    time_limit_s: float = 60.0,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> list[ComparedModel]:
    """Measure models beside the first one on one device, interleaved, all on images of the first one's size.

    A name is what `load_model` knows, a bare torchvision or timm name, a directory we wrote, or a study (its chosen
    model). The first model is timed against itself too: how far its ratio is from 1 is the measurement's own error.
    Raises GhostsearchError when a name is unknown, twice there, or a model cannot take the first one's images.
    """
    if len(set(names)) != len(names) or not names:
        raise GhostsearchError(f"compare takes different models, at least one; got {', '.join(names) or 'none'}")
    loaded = {name: find_model(name, size, allow_code=allow_code) for name in names}
    shape = loaded[names[0]].input
    example = example_input(shape)
    _check_inputs(loaded, example)
    modules: dict[str, nn.Module] = {name: model.module.eval() for name, model in loaded.items()}
    latencies = measure_latency(
        modules, example, device=device, baseline=modules[names[0]], threads=threads, batch=batch,
        time_limit_s=time_limit_s, seed=seed, progress=progress,
    )  # fmt: skip
    return [
        ComparedModel(
            name=name,
            size=shape.size,
            cost=measure_cost(modules[name], example),
            latency=latencies[name],
            shares=tuple(dict(row) for row in shares_by_kind(modules[name], example)),
            published=published_accuracy(model),
            made_of=made_of(model),
        )
        for name, model in loaded.items()
    ]


def find_model(name: str, size: int | None = None, *, allow_code: bool = False) -> LoadedModel:
    """The model a name, a directory of ours or a study (its chosen model) stands for; raises GhostsearchError.

    A directory whose baseline is the user's own code is loaded only with `allow_code`.
    """
    folder = Path(name)
    if folder.is_dir():
        return load_directory(_model_directory(folder), allow_code=allow_code)
    if ":" in name:
        return load_model(name, size=size)
    for source in ("torchvision", "ghostsearch", "timm"):
        if f"{source}:{name}" in known_models(f"{source}:"):
            return load_model(f"{source}:{name}", size=size)
    return load_model(f"torchvision:{name}", size=size)  # raises, naming the nearest ones


def made_of(model: LoadedModel) -> str:
    """The baseline and how often each choice was taken, for a directory of ours; empty for other networks."""
    if not isinstance(model, SavedModel):
        return ""
    taken = Counter(map(str, (*model.architecture.sites.values(), *model.architecture.groups.values())))
    return f"{model.spec} with " + (", ".join(f"{n} × {choice}" for choice, n in taken.items()) or "nothing changed")


def _model_directory(folder: Path) -> Path:
    """The directory itself when it holds a model, else the chosen model's of the study it holds."""
    if (folder / "architecture.json").is_file():
        return folder
    from ghostsearch.study.directory import load_study

    chosen = load_study(folder).chosen
    if not chosen or not (folder / "models" / chosen).is_dir():
        raise GhostsearchError(f"{folder} holds a study without a chosen model yet; let 'ghostsearch search' finish")
    return folder / "models" / chosen


def _check_inputs(loaded: dict[str, LoadedModel], example: torch.Tensor) -> None:
    """Raise GhostsearchError when a model cannot take the first one's images, x: (1, C, H, W)."""
    for name, model in loaded.items():
        if model.input.channels != example.shape[1]:
            raise GhostsearchError(
                f"{name} takes {model.input.channels} channels, the first model {example.shape[1]}; "
                "compare models of one kind of image"
            )
        try:
            with torch.no_grad():
                model.module.eval()(example)
        # A foreign forward may raise anything; its own words say what.
        except Exception as error:
            shown = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise GhostsearchError(
                f"{name} does not take the first model's images of {tuple(example.shape[1:])} ({shown}); give --size"
            ) from error


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
