"""Options that several commands share, each defined once, and commands whose options come from a pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import BeforeValidator

from ghostsearch.cli.terminal import say_error
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.setting import DEVICE_HELP
from ghostsearch.models.options import ModelOptions
from ghostsearch.options import OptionError, Options, option
from ghostsearch.space.preset import SPACE_HELP, preset_directory

MODEL_HELP = (
    "torchvision:NAME, timm:NAME, ghostsearch:NAME, package.module:function (this runs that code), "
    "or a directory that ghostsearch wrote."
)


def complete_model(incomplete: str) -> list[str]:
    """Model names that begin with what was typed; torchvision is imported only once no other prefix begins so."""
    from ghostsearch.models.load import known_models

    prefixes = ["ghostsearch:", "torchvision:", "timm:"]
    matching = [p for p in prefixes if p.startswith(incomplete)]
    if len(matching) > 1:
        return matching
    return [m for m in known_models(next(iter(matching), incomplete)) if m.startswith(incomplete)]


def complete_space(incomplete: str) -> list[str]:
    """Shipped presets that begin with what was typed."""
    return [p.stem for p in sorted(preset_directory().glob("*.yaml")) if p.stem.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Devices that begin with what was typed."""
    from ghostsearch.measure.devices.table import device_names

    return [d for d in device_names() if d.startswith(incomplete)]


Model = Annotated[
    str, typer.Argument(help=MODEL_HELP, metavar="MODEL", autocompletion=complete_model, show_default=False)
]
Subject = Annotated[
    str,
    typer.Argument(
        help=f"{MODEL_HELP.removesuffix('.')} (a study: its chosen model), or an .onnx file.",
        metavar="MODEL", autocompletion=complete_model, show_default=False,
    ),
]  # fmt: skip
DEVICE = "onnxruntime:cpu"
Size = Annotated[str | None, typer.Option(help=ModelOptions.model_fields["size"].description)]
Classes = Annotated[int | None, typer.Option(min=1, help=ModelOptions.model_fields["classes"].description)]
Device = Annotated[
    str,
    typer.Option(help=f"{DEVICE_HELP}.", autocompletion=complete_device),
]
Space = Annotated[
    str,
    typer.Option(help=SPACE_HELP, autocompletion=complete_space, show_default=False),
]


class Printed(Options):
    """What a command prints."""

    as_json: bool = option(False, "Print JSON for programs instead of tables.", flags=("--json",))


class Output(Printed):
    """What a command prints that shows its progress."""

    quiet: bool = option(False, "No progress bar.", flags=("--quiet", "-q"))

    @property
    def silent(self) -> bool:
        """Whether no progress is shown."""
        return self.quiet or self.as_json


PRINTED, OUTPUT = Printed(), Output()
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code (package.module:function) a directory's model came from.")
]


def needs(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark options of a command's groups that it cannot do without, whatever default they have elsewhere."""

    def marked(function: Callable[..., None]) -> Callable[..., None]:
        setattr(function, "needs", names)  # noqa: B010
        return function

    return marked


def without(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Leave options of a command's groups out that would have no effect there."""

    def marked(function: Callable[..., None]) -> Callable[..., None]:
        setattr(function, "without", names)  # noqa: B010
        return function

    return marked


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as a typer command: a parameter that is a group of options becomes an option per field.

    The parameter's default (an instance) gives the options their defaults; its fields their names, help and checks.
    A bool field makes a flag pair, a tuple field an option that may be repeated. The function gets the group again,
    with `model_fields_set` saying what the user gave. Wrong values raise GhostsearchError that names the option.
    """
    hints = get_type_hints(function, include_extras=True)
    plain: list[inspect.Parameter] = []
    grouped: dict[str, Options] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(parameter.default, Options):
            grouped[name] = parameter.default
        else:
            plain.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    needed: tuple[str, ...] = getattr(function, "needs", ())
    left_out: tuple[str, ...] = getattr(function, "without", ())
    said = {name: f.description for group in grouped.values() for name, f in type(group).model_fields.items()}
    offered = {name: p for group in grouped.values() for name, p in _field_parameters(group, needed).items()}
    of_fields = {name: p for name, p in offered.items() if name not in left_out}

    def run(**values: Any) -> None:
        given = {name: value for name, value in values.items() if name in of_fields and value not in (None, [])}
        for name in needed:
            if name not in given:
                raise GhostsearchError(f"give --{name.replace('_', '-')}: {said[name]}")
        groups = {name: _filled(group, given) for name, group in grouped.items()}
        try:
            function(**groups, **{name: value for name, value in values.items() if name not in of_fields})
        except KeyboardInterrupt:
            # Typer would end without a word.
            say_error("stopped; run the same command again to go on")
            raise typer.Exit(130) from None

    parameters = [*plain, *of_fields.values()]
    run.__doc__, run.__name__ = function.__doc__, function.__name__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _filled(group: Options, given: dict[str, Any]) -> Options:
    own = {name: value for name, value in given.items() if name in type(group).model_fields}
    try:
        defaults = {name: getattr(group, name) for name in group.model_fields_set}
        made = type(group)(**{**defaults, **own})
    except OptionError as error:
        option = f"--{error.option.replace('_', '-')}" if error.option else ""
        raise GhostsearchError(option + str(error).removeprefix(error.option)) from None
    made.__pydantic_fields_set__.clear()
    made.__pydantic_fields_set__.update(own)
    return made


def _field_parameters(group: Options, needed: Sequence[str]) -> dict[str, inspect.Parameter]:
    """A typer option per field of the group that the command line offers."""
    kind = type(group)
    # A class's own fields before those it inherits.
    names = sorted(kind.model_fields, key=lambda name: name not in kind.__annotations__)
    made = {}
    for name in names:
        field = kind.model_fields[name]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("cli") is False:
            continue
        annotation, number, shown = _option_type(field.annotation, getattr(group, name))
        if any(isinstance(x, BeforeValidator) for x in field.metadata):
            number = None  # such as 97%, which the group itself reads
        # What is empty until something else is known, and what must be given, has no default to show.
        if field.default == "" or name in needed:
            shown = ""
        flags = [str(flag) for flag in extra.get("flags") or ()]  # type: ignore[union-attr]
        option = typer.Option(
            *flags, help=f"{field.description}{' Required.' * (name in needed)}", show_default=shown or False,
            metavar=number, parser=_number if number else None, autocompletion=COMPLETIONS.get(name),
            rich_help_panel=str(extra.get("panel", "Options")),
        )  # fmt: skip
        made[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
        )
    return made


def _number(text: str) -> int | float | str:
    """A typed number; what is none stays a text, which the group refuses by name."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


COMPLETIONS = {"space": complete_space, "device": complete_device, "model": complete_model}


def _option_type(annotation: Any, default: Any) -> tuple[Any, str | None, str]:
    """The type typer should parse for a field, the kind of number that the help shows, and how its default reads.

    Numbers are parsed by the group, which names the value that it refuses.
    """
    text = str(annotation)
    if "tuple" in text or "list" in text:
        return list[str] | None, None, ", ".join(map(str, default or ()))
    shown = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float")):
        if annotation is kind or text in (f"{name} | None", f"typing.Optional[{name}]"):
            return (bool | None, None, shown) if kind is bool else (str | None, f"<{name}>", shown)
    return str | None, None, shown
