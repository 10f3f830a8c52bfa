"""Networks and images that are in memory: what the commands do with names, done with modules, tensors and loaders.

Images are a tensor (N, C, *dims), or an iterable of batches: images alone, or (images, targets). They are taken as they
are: the caller normalises them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ghostsearch.data.calibration import positions
from ghostsearch.data.load import own_data
from ghostsearch.data.user_loaders import batch_of
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.convert_directory import requested_architecture
from ghostsearch.export.formats.table import format_of
from ghostsearch.export.writer import ExportResult
from ghostsearch.export.writer import export as export_file
from ghostsearch.files import temporary_folder
from ghostsearch.graph.batches import image_batches
from ghostsearch.graph.capture import copied, tensors
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.input import InputSpec, parse_size
from ghostsearch.models.load import LoadedModel
from ghostsearch.models.stored import raw_bytes, weights_digest
from ghostsearch.records import Record, StudyView
from ghostsearch.shown import Progress, notebook_bar
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import WIDTH_MULTIPLE
from ghostsearch.study.config import RunConfig
from ghostsearch.study.run import search as search_named
from ghostsearch.study.setup import Given
from ghostsearch.surgery.convert import convert as convert_sites
from ghostsearch.surgery.options import Conversion
from ghostsearch.surgery.saved import load
from ghostsearch.surgery.saved import save as save_model
from ghostsearch.surgery.sites import find_sites

Images = Tensor | Iterable[Any]
LOOKED_AT = 64
"""Images of a set that its name is made of."""


@dataclass(frozen=True)
class Origin:
    """What `convert` notes on the module that it returns, so that `save` can be given the module alone."""

    architecture: Architecture
    width_multiple: int
    input: InputSpec | None


def convert(
    model: nn.Module, wanted: Architecture | str, images: Images | None = None, *, example: Any = None, **options: Any
) -> nn.Module:
    """The converted model as a new module: an architecture, or one choice wherever it fits, such as `width(0.5)`.

    Weights are fitted on `images` in closed form, without labels; without images, `example` (a forward input) is needed
    and they are copied. `options` are those of `ghostsearch.surgery.convert.convert`. Raises GhostsearchError for a
    choice that fits nowhere, and as that does.
    """
    batches = list(_batches(images)) if images is not None else None
    if example is None:
        if not batches:
            raise GhostsearchError("convert needs images, or an example input: convert(net, choice, images)")
        example = batches[0]
    if batches is not None:
        options["calibration"] = batches
    multiple = options.setdefault("width_multiple", WIDTH_MULTIPLE)
    if isinstance(wanted, str):
        anatomy = options.setdefault("anatomy", find_sites(model, example))
        wanted = requested_architecture(anatomy, Conversion(choice=wanted, width_multiple=multiple))
    converted = convert_sites(model, wanted, example=example, **options)
    seen = _input_of(example) if isinstance(example, Tensor) and example.ndim > 2 else None
    converted.ghostsearch_origin = Origin(wanted, multiple, seen)  # type: ignore[assignment]
    return converted


def save(
    module: nn.Module, directory: Path | str, *, source: LoadedModel | None = None,
    architecture: Architecture | None = None, width_multiple: int | None = None,
) -> Path:  # fmt: skip
    """Write a model to a directory; what `convert` made needs nothing else, and is loaded by `load(DIR, model=NET)`.

    source, architecture: as `ghostsearch.surgery.saved.save` takes them, for models that `convert` did not make. Raises
    GhostsearchError as that does, and where neither is known.
    """
    origin = getattr(module, "ghostsearch_origin", None)
    architecture = architecture or (origin.architecture if origin else None)
    if source is None and origin and origin.input:
        source = LoadedModel(module, "", origin.input)
    if source is None or architecture is None:
        raise GhostsearchError(
            "save needs to know what was converted: save(module, DIR, source=LOADED, architecture=ARCHITECTURE), or a "
            "module that ghostsearch.convert made from image batches"
        )
    multiple = width_multiple or (origin.width_multiple if origin else WIDTH_MULTIPLE)
    return save_model(module, directory, source=source, architecture=architecture, width_multiple=multiple)


def measure_model(
    model: nn.Module, images: Images, *, device: str | Sequence[str] = "onnxruntime:cpu",
    baseline: nn.Module | None = None, **setting: Any,
) -> Record:  # fmt: skip
    """A model's exact cost and its latency on each device, interleaved with a baseline where one is given.

    The first image alone is looked at. `setting`: the fields of `Setting`, such as threads=2. Raises GhostsearchError
    for an unknown or absent device.
    """
    example, chosen = _first(images), Setting(**setting)
    latencies = [
        measure_latency({"model": model}, example, device=name, baseline=baseline, setting=chosen)["model"]
        for name in ([device] if isinstance(device, str) else device)
    ]
    return Record(number=0, digest="in memory", origin="user", state="complete", cost=measure_cost(model, example),
                  latencies=tuple(latencies))  # fmt: skip


def export_model(model: nn.Module, path: Path | str, images: Images) -> ExportResult:
    """Write a model to a file, its format by the name's ending (.onnx, .pt2, .pte, .xml), checked by running it.

    The shape of the first image is the input's. Raises GhostsearchError as `ghostsearch.export.writer.export` does.
    """
    path = Path(path)
    return export_file(LoadedModel(copied(model).eval(), "", _input_of(_first(images))), format_of(path), path)


def search(
    config: RunConfig | None = None, *, model: nn.Module | str | None = None, data: Any = None,
    progress: Progress | None = None, **options: Any,
) -> StudyView:  # fmt: skip
    """Run or resume a study: of a RunConfig, or of a model and data by name or in memory and its other fields.

    Without `progress`, a notebook shows a bar.
    model: a module is taken as trained and stays as it is. data: (train, validation, test), each a loader, a data set
    or a tuple of tensors (images, targets); without targets models are scored by agreement with the given one. Raises
    GhostsearchError for bad input, before anything is written.
    """
    given = None
    if config is not None:
        if options or model is not None or data is not None:
            raise GhostsearchError("search takes a RunConfig, or model, data and options, not both")
    elif isinstance(model, nn.Module):
        config, given = _in_memory(model, data, options)
    else:
        named: dict[str, Any] = {key: value for key, value in (("model", model), ("data", data)) if value is not None}
        config = RunConfig(**named, **options)
    with notebook_bar(progress) as report:
        return search_named(config, progress=report, given=given)


def _in_memory(model: nn.Module, data: Any, options: dict[str, Any]) -> tuple[RunConfig, Given]:
    """The run of a module on three splits, and what it cannot open by name."""
    if not isinstance(data, tuple | list) or len(data) != 3:
        raise GhostsearchError("search(model=NET) takes data=(train, validation, test): loaders, data sets or tensors")
    if unused := sorted(options.keys() & {"classes", "size", "train_images", "validation_list"}):
        raise GhostsearchError(f"search: {', '.join(unused)} is for models and data by name; leave it out")
    splits = [_as_set(split) for split in data]
    spec = _input_of(_first(_one_batch(splits[0])))
    weights = f"in memory, {weights_digest(model)}"
    named = f"in memory, {_data_digest(splits)}"
    run = RunConfig(model=f"memory:{type(model).__name__}", data=named, weights=weights, **options)
    loaded = LoadedModel(copied(model).eval(), "", spec, weights=weights)
    return run, Given(loaded, own_data(splits, run.data, spec, batch=run.batch_size))


class Compressed(NamedTuple):
    """A cheaper network and how it compares."""

    model: nn.Module
    record: Record


def compress(
    model: nn.Module, images: Images, *, out: Path | str | None = None, progress: Progress | None = None, **options: Any
) -> Compressed:
    """The cheapest network found that keeps the limits, such as max_latency="60%", and its record; nothing is trained.

    Weights are fitted in closed form, and models are scored by their agreement with `model`, on images without labels:
    half of them to fit, a quarter each to select and to test. `options`: the fields of `RunConfig`; `out` keeps the
    study. Raises GhostsearchError where nothing keeps the limits.
    """
    everything = torch.cat(list(_batches(images)))
    if len(everything) < 8:
        raise GhostsearchError(f"compress needs at least 8 images, better some hundred; got {len(everything)}")
    # Many sets are sorted by class.
    everything = everything[torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))]
    half, quarter = len(everything) // 2, len(everything) // 4
    data = [TensorDataset(part) for part in everything.split([half, quarter, len(everything) - half - quarter])]
    wanted = {"trials": 8, "epochs": 0, "final_epochs": 0, "objectives": ("score", "latency", "macs"), **options}
    with temporary_folder() as folder:
        study = search(model=model, data=data, out=str(out or folder / "study"), progress=progress, **wanted)
        record = study.record(study.chosen)
        if record is None:
            raise GhostsearchError(f"no model of {len(study.records)} trials keeps the limits; relax one or add trials")
        if record.digest == "baseline":
            return Compressed(copied(model).eval(), record)
        found = load(Path(study.directory) / "models" / record.digest, model=model)
    return Compressed(found, record)


def _batches(images: Images) -> Iterable[Tensor]:
    """Batches of images alone; a tensor of all of them is cut."""
    return images.split(64) if isinstance(images, Tensor) else image_batches(images)


def _first(images: Images) -> Tensor:
    batch = next(iter(_batches(images)), None)
    if not isinstance(batch, Tensor) or batch.ndim < 3:
        shown = type(batch).__name__ if not isinstance(batch, Tensor) else tuple(batch.shape)
        raise GhostsearchError(f"images are a tensor (N, C, *dims) or batches of such, got {shown}")
    return batch[:1]


def _one_batch(data: Any) -> Tensor:
    """The images of the first batch of a loader, or the first image of a data set."""
    images: Tensor = batch_of(next(iter(data)))[0]
    return images[None] if isinstance(data, Dataset) else images


def _data_digest(splits: Sequence[Any]) -> str:
    """Name of three splits: how many images each has, which of a set, all values of tensors, else some of the images
    that models are judged on.
    """
    state = hashlib.sha256()
    for number, split in enumerate(splits):
        source, read = (split.dataset, positions(split)) if isinstance(split, DataLoader) else (split, None)
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            continue
        whole = range(len(source))
        read = whole if read is None else read
        state.update(str(len(read)).encode())
        if read != whole:
            state.update(str([int(place) for place in read]).encode())
        if isinstance(source, TensorDataset):
            items: list[Any] = list(source.tensors)
        else:
            # Those to train on may be augmented.
            places = np.linspace(0, len(read) - 1, min(len(read), LOOKED_AT)).astype(int) if number else ()
            items = [source[read[int(place)]] for place in places]
        for value in tensors(items):
            state.update(raw_bytes(value))
        state.update(repr([part for item in items if isinstance(item, tuple | list) for part in item
                           if isinstance(part, int | float | str)]).encode())  # fmt: skip
    return f"sha256 {state.hexdigest()[:16]}"


def _as_set(split: Any) -> Any:
    """Tensors or arrays, images or (images, targets), as a data set; anything else, such as batches, as it is.

    Raises GhostsearchError where there are more images than targets, or fewer.
    """
    parts = split if isinstance(split, tuple | list) else (split,)
    if not parts or not all(isinstance(x, Tensor | np.ndarray) for x in parts):
        return split
    if isinstance(split, list) and len({x.ndim for x in parts}) == 1:
        return split  # batches of images
    made = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in parts]
    if len({len(x) for x in made}) > 1:
        raise GhostsearchError(
            f"images and targets of a split are as many, got {' and '.join(str(len(x)) for x in made)}"
        )
    return TensorDataset(*made)


def _input_of(images: Tensor) -> InputSpec:
    """The input of images (N, C, *dims) that need no normalising."""
    size, channels = parse_size(tuple(images.shape[2:])), images.shape[1]
    assert size is not None
    shorter = min(images.shape[2:]) if images.dim() > 3 else None
    return InputSpec(size, channels, (0.0,) * channels, (1.0,) * channels, shorter)
