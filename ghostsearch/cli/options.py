"""Options that several commands share, each defined once, and commands whose options come from a pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from ghostsearch.errors import GhostsearchError

if TYPE_CHECKING:
    from ghostsearch.models.load import LoadedModel

MODEL_HELP = (
    "torchvision:NAME, timm:NAME, ghostsearch:NAME, package.module:function (this runs that code), "
    "or a directory that ghostsearch wrote."
)


def complete_model(incomplete: str) -> list[str]:
    """Model names that go on from what was typed; torchvision is only imported once its prefix stands there."""
    from ghostsearch.models.load import known_models

    prefixes = ["ghostsearch:", "torchvision:", "timm:"]
    matching = [p for p in prefixes if p.startswith(incomplete)]
    return matching if len(matching) > 1 else [m for m in known_models(incomplete) if m.startswith(incomplete)]


def complete_space(incomplete: str) -> list[str]:
    """Shipped presets that go on from what was typed."""
    from ghostsearch.space.preset import preset_directory

    return [p.stem for p in sorted(preset_directory().glob("*.yaml")) if p.stem.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Devices that go on from what was typed."""
    from ghostsearch.measure.devices.table import device_names

    return [d for d in device_names() if d.startswith(incomplete)]


Model = Annotated[
    str, typer.Argument(help=MODEL_HELP, metavar="MODEL", autocompletion=complete_model, show_default=False)
]
Weights = Annotated[Path | None, typer.Option(help="Trained weights, .safetensors or .pt (read with weights_only).")]
Classes = Annotated[int | None, typer.Option(min=1, help="Adapt the classifier to this many classes.")]
Size = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Image side in pixels; default: what the model was made for."),
]
Data = Annotated[
    str | None, typer.Option(help="digits, folder:PATH, torchvision:CIFAR10@ROOT or package.module:function.")
]
ValidationList = Annotated[
    Path | None, typer.Option(help="File that lists the images of the selection split, one path a line.")
]
Device = Annotated[
    str,
    typer.Option(help="Where to measure; `ghostsearch devices` lists them.", autocompletion=complete_device),
]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads of the runtime.")]
Batch = Annotated[int, typer.Option(min=1, help="Images a forward.")]
Precision = Annotated[str, typer.Option(help="float32, or float16/bfloat16 where the device has it.")]
ChannelsLast = Annotated[bool, typer.Option(help="Memory order of PyTorch's own devices.")]
Space = Annotated[
    str, typer.Option(help="Search space: a YAML file or a preset's name.", autocompletion=complete_space)
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code (package.module:function) a directory's model came from.")
]


def resolve_model(
    model: str,
    *,
    weights: Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    seed: int = 0,
    allow_code: bool = False,
) -> LoadedModel:
    """The model an argument names: a directory we wrote, or a builder's name.

    A directory whose model came from the user's own code is loaded only with `allow_code`.
    Raises GhostsearchError when it is unknown or the weights do not fit.
    """
    if Path(model).is_dir():
        from ghostsearch.export.saved import load_directory

        if weights or classes:
            raise GhostsearchError(f"{model} is a directory with weights of its own; leave --weights and --classes out")
        return load_directory(Path(model), allow_code=allow_code)
    from ghostsearch.models.load import load_model

    return load_model(model, weights=weights, classes=classes, size=size, seed=seed)


def command_from(
    model: type[BaseModel], run: Callable[..., None], further: dict[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """A typer callback with one option a field of `model`, its description as help: one parameter list for all.

    `run` is called with a dict of the model's values that the user gave (defaults stay where they are defined, in the
    model) and, by name, the `further` options (name -> annotation and default) that are no part of it.
    A bool field makes a flag pair, a tuple field an option that may be repeated.
    """
    parameters = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("cli") is False:
            continue
        default = field.get_default(call_default_factory=True)
        kind, shown = _option_type(field.annotation, default)
        completion = {"space": complete_space, "device": complete_device, "model": complete_model}.get(name)
        option = typer.Option(
            help=field.description, show_default=shown if shown else False, autocompletion=completion,
            rich_help_panel=str(extra.get("panel", "Options")),
        )  # fmt: skip
        annotation = Annotated[kind, option]  # type: ignore[valid-type]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    for name, (annotation, default) in further.items():
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )

    def command(**values: Any) -> None:
        own = {name: values.pop(name) for name in further}
        run({key: value for key, value in values.items() if value is not None and value != []}, **own)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _option_type(annotation: Any, default: Any) -> tuple[Any, str]:
    """The type typer should parse for a field, and how its default reads in the help."""
    text = str(annotation)
    if "tuple" in text or "list" in text:
        return list[str] | None, ", ".join(map(str, default or ()))
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float")):
        if annotation is kind or text in (f"{name} | None", f"typing.Optional[{name}]"):
            return kind | None, "" if default is None else str(default)
    return str | None, "" if default is None else str(default)
