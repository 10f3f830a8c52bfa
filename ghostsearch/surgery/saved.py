"""Models on disk: architecture.json says what was built from what, weights.safetensors holds the tensors."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ghostsearch.blocks.base import Block
from ghostsearch.errors import GhostsearchError, found_in, key_of, text_of
from ghostsearch.files import read_json, write_text
from ghostsearch.models.input import InputSpec, parse_size
from ghostsearch.models.load import LoadedModel, example_input, load_model
from ghostsearch.models.options import ModelOptions
from ghostsearch.models.stored import write_tensors
from ghostsearch.options import refused
from ghostsearch.space.architecture import Architecture
from ghostsearch.space.choice import WIDTH_MULTIPLE
from ghostsearch.surgery.convert import convert
from ghostsearch.version import versions

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "weights.safetensors"

SAFE_SPEC = re.compile(r"(torchvision|timm|ghostsearch):[\w.\-]{1,100}")
"""Model names whose builders come with a library; any other name would run code of the file's choosing."""

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Side = Annotated[int, Field(ge=1, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
LARGEST_SHRINK, SMALL = 64, 2**25
"""The baseline that a directory names may have 64 times the stored parameters, or 2^25 in any case."""

State = Mapping[str, Tensor]


def _bounded_size(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        raise ValueError("must be a side, or a list of height and width")
    with refused():
        return parse_size(value)


class _Source(BaseModel):
    """The baseline: builder, classes and input, bounded so that a forged file cannot ask for much."""

    model_config = ConfigDict(frozen=True, strict=True)
    model: Annotated[str, Field(max_length=200)]
    classes: Annotated[int, Field(ge=1, le=10**5)] | None
    size: Annotated[int | tuple[int, ...], BeforeValidator(_bounded_size)]
    channels: Annotated[int, Field(ge=1, le=1024)]
    mean: Annotated[tuple[Finite, ...], Field(strict=False)]
    std: Annotated[tuple[Annotated[Finite, Field(gt=0)], ...], Field(strict=False)]
    resize: Side | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    categories: Annotated[
        tuple[Annotated[str, Field(max_length=1000)], ...], Field(strict=False, max_length=10**5)
    ] = ()

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> _Source:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError("mean and std take one value per channel")
        return self

    @property
    def input(self) -> InputSpec:
        return InputSpec(self.size, self.channels, self.mean, self.std, self.resize, self.interpolation)


class _Manifest(BaseModel):
    """What architecture.json holds beside the architecture itself."""

    model_config = ConfigDict(frozen=True, strict=True)
    source: _Source
    width_multiple: Annotated[int, Field(ge=1, le=1024)]
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: Annotated[dict[str, str], Field(max_length=100)] = {}


@dataclass(frozen=True)
class SavedModel(LoadedModel):
    """A model that was read from a directory; `spec` names the baseline it was converted from."""

    architecture: Architecture = field(default_factory=Architecture)
    width_multiple: int = WIDTH_MULTIPLE
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package versions it was written with."""


def save(
    module: nn.Module,
    directory: Path | str,
    *,
    source: LoadedModel,
    architecture: Architecture,
    width_multiple: int = WIDTH_MULTIPLE,
) -> Path:
    """Write a converted (or baseline) model to a directory; killed halfway, it loads or says why not.

    `source` is the model that `architecture` was applied to: its `spec` (empty for a network made in Python),
    classes and input are kept. Tensors are stored contiguous, in their dtype; shared ones once per name.
    Returns the directory.
    Raises GhostsearchError when the source was itself converted to something else, when the state holds more than
    tensors, or when the directory cannot be written.
    """
    if isinstance(source, SavedModel) and source.architecture not in (architecture, Architecture()):
        raise GhostsearchError(
            f"the model is converted already ({source.architecture.digest}); convert the baseline {source.spec} instead"
        )
    directory = Path(directory)
    weights = directory / WEIGHTS_FILE
    write_tensors(weights, module.state_dict())
    manifest = _checked(
        {
            "source": {
                "model": source.spec,
                "classes": source.classes,
                "categories": source.categories,
                **asdict(source.input),
            },
            "width_multiple": width_multiple,
            "weights_sha256": _sha256(weights),
            "versions": versions(),
        },
        "cannot save",
    )
    content = architecture.to_dict() | {"digest": architecture.digest} | manifest.model_dump()
    write_text(directory / ARCHITECTURE_FILE, json.dumps(content, indent=1) + "\n")
    return directory


def load(
    directory: Path | str, *, model: nn.Module | None = None, allow_code: bool = False, example: Any = None
) -> nn.Module:
    """The module in a directory, in eval mode, with outputs equal to those of the module that was saved.

    The baseline is built by name and converted, so nothing in the directory is run. A directory whose
    baseline came from the user's own code (`package.module:function`) is loaded only with that network
    as `model` (left untouched), or with `allow_code=True`, which imports and calls what the file names: only
    for files you trust. A network whose forward takes more than one image needs its `example` too, as `convert` does.
    Raises GhostsearchError for files that are missing, truncated, not ghostsearch's, forged or of a newer version, and
    for a baseline that is not loaded for these reasons.
    """
    return load_directory(directory, model=model, allow_code=allow_code, example=example).module


def load_directory(
    directory: Path | str, *, model: nn.Module | None = None, allow_code: bool = False, example: Any = None
) -> SavedModel:
    """As `load`, with the baseline's name and input, the architecture and the versions of the writer."""
    directory = Path(directory)
    architecture, manifest = read_manifest(directory)
    state = _read_weights(directory / WEIGHTS_FILE, manifest.weights_sha256)
    baseline = model if model is not None else _build(directory, manifest.source, state, allow_code)
    example = example_input(manifest.source.input) if example is None else example
    with found_in(directory):
        module = convert(baseline, architecture, example=example, width_multiple=manifest.width_multiple)
    _fill(module, state, directory / WEIGHTS_FILE)
    source = manifest.source
    return SavedModel(
        module=module.eval(),
        spec=source.model,
        input=source.input,
        classes=source.classes,
        categories=source.categories,
        architecture=architecture,
        width_multiple=manifest.width_multiple,
        versions=manifest.versions,
    )


def open_model(
    name: str, options: ModelOptions | None = None, *, seed: int = 0, allow_code: bool = False
) -> LoadedModel:
    """The model an argument names: a directory that ghostsearch wrote, or a builder's name.

    A directory whose model came from the user's own code is loaded only with `allow_code`.
    Raises GhostsearchError when it is unknown or the weights do not fit.
    """
    options = options or ModelOptions()
    if Path(name).is_dir():
        if options.weights or options.classes:
            raise GhostsearchError(f"{name} is a directory with weights of its own; leave --weights and --classes out")
        return load_directory(name, allow_code=allow_code)
    return load_model(name, weights=options.weights, classes=options.classes, size=options.size, seed=seed)


def load_baseline(saved: SavedModel, *, allow_code: bool = False) -> LoadedModel:
    """The baseline that a saved one came from, with random weights: to compare cost and latency.

    Raises GhostsearchError as `load` does when the baseline comes from the user's own code.
    """
    _check_spec(saved.spec, saved.spec, allow_code)
    shape = saved.input
    return load_model(saved.spec, classes=saved.classes, size=shape.size, mean=shape.mean, std=shape.std)


def read_manifest(directory: Path) -> tuple[Architecture, _Manifest]:
    """Architecture and manifest of a directory, checked; raises GhostsearchError."""
    path = directory / ARCHITECTURE_FILE
    if not path.is_file():
        why = f"{ARCHITECTURE_FILE} is missing" if directory.is_dir() else "there is no such directory"
        raise GhostsearchError(f"{directory}: not a ghostsearch model ({why})")
    data = read_json(path)
    architecture = Architecture.from_dict(data, str(path))
    if isinstance(data, dict) and "source" not in data:
        raise GhostsearchError(
            f"{path}: an architecture without a model; apply it by 'ghostsearch convert MODEL --architecture {path}'"
        )
    return architecture, _checked(data, str(path))


def _checked(data: object, where: str) -> _Manifest:
    try:
        return _Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(first["loc"])
        got = " ".join(repr(first["input"]).split())[:80]
        raise GhostsearchError(f"{where}: {key}: {first['msg']}, got {got}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_weights(path: Path, sha256: str) -> State:
    """The tensors of a directory's weights file; raises GhostsearchError unless they are the manifest's."""
    if not path.is_file():
        raise GhostsearchError(f"{path.parent}: not a ghostsearch model ({path.name} is missing)")
    try:
        found, state = _sha256(path), load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise GhostsearchError(f"{path}: not a safetensors file, or a truncated one: {text_of(error, 120)}") from None
    if found != sha256:
        raise GhostsearchError(
            f"{path}: not the weights that {ARCHITECTURE_FILE} was written with (interrupted, or replaced)"
        )
    return state


def _check_spec(where: object, spec: str, allow_code: bool) -> None:
    if not spec:
        raise GhostsearchError(
            f"{where}: its baseline was made in Python and has no name; load(directory, model=NETWORK)"
        )
    if not allow_code and not SAFE_SPEC.fullmatch(spec):
        raise GhostsearchError(
            f"{where}: its baseline is {spec[:100]!r}, code that loading would run; "
            "if you trust it add --allow-code; in Python load(…, allow_code=True), or load(…, model=NETWORK)"
        )


def _build(directory: Path, source: _Source, state: State, allow_code: bool) -> nn.Module:
    _check_spec(directory, source.model, allow_code)
    if source.classes and not any(source.classes in t.shape and t.numel() for t in state.values()):
        raise GhostsearchError(
            f"{directory}: declares {source.classes} classes, but no tensor in {WEIGHTS_FILE} has as many"
        )
    options: dict[str, Any] = {k: getattr(source, k) for k in ("classes", "size", "mean", "std")}
    if not allow_code:
        _check_size(directory, source.model, options, state)
    return load_model(source.model, **options).module


def _check_size(directory: Path, spec: str, options: dict[str, Any], state: State) -> None:
    """Refuse a baseline out of all proportion to the weights, before it takes any memory."""
    try:
        with torch.device("meta"):
            baseline = load_model(spec, **options).module
    except (NotImplementedError, RuntimeError):
        # A few of torchvision's initialisers want data; its largest network has 0.6 G parameters.
        return
    stored = sum(t.numel() for t in state.values())
    needed = sum(p.numel() for p in baseline.parameters())
    if needed > LARGEST_SHRINK * stored + SMALL:
        raise GhostsearchError(
            f"{directory}: {spec} has {needed} parameters, {WEIGHTS_FILE} only {stored}: forged or mixed up"
        )


def _fill(module: nn.Module, state: State, path: Path) -> None:
    """Load the file's tensors into a module, strictly, keeping the file's precision; in place."""
    own = module.state_dict(keep_vars=True)
    for name, value in own.items():
        if name in state and state[name].dtype in PRECISIONS and value.dtype in PRECISIONS:
            value.data = value.data.to(state[name].dtype)
    stored = {t.dtype for t in state.values() if t.dtype in PRECISIONS}
    for name, value in module.named_buffers():
        if name not in own and value.dtype in PRECISIONS and len(stored) == 1:
            value.data = value.data.to(next(iter(stored)))  # What is not saved runs beside what is.
    found = OrderedDict(state)
    # Some modules (MNASNet) refuse a state without the versions that PyTorch keeps beside the tensors.
    found._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    try:
        module.load_state_dict(found)
    except (RuntimeError, ValueError) as error:
        shown = " ".join(str(error).split("\n", 1)[-1].split())[:160]
        raise GhostsearchError(f"{path}: tensors do not fit the architecture: {shown}") from None
    for name, block in module.named_modules():
        order = getattr(block, "order", None) if isinstance(block, Block) else None
        if order is not None and not torch.equal(order.sort().values, torch.arange(len(order))):
            raise GhostsearchError(f"{path}: {name}.order is no order of {len(order)} channels")
