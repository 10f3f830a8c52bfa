"""A run as data: run.yaml, the options of `ghostsearch search` and the argument of `search()` are this one model."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ghostsearch.errors import GhostsearchError, key_of
from ghostsearch.space.limits import FACTORS, Limit, parse_limit
from ghostsearch.yaml_files import read_yaml

AXES = ("score", "latency", "macs", "params", "memory")
"""What an objective may be; `score` is the task's metric, `latency` one axis a device."""

INPUT, SPACE, BUDGET, TRAINING, MACHINE = "Input", "Search space", "Budget", "Training", "Machine"


def _option(default: Any, panel: str, text: str, **more: Any) -> Any:
    return Field(default=default, description=text, json_schema_extra={"panel": panel}, **more)


def _as_tuple(value: Any) -> Any:
    """A list or a comma-separated text as a tuple, so that the command line and YAML may write either."""
    if isinstance(value, str):
        value = [value]
    # Only of scalars: a nest of YAML aliases would print as gigabytes.
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class RunConfig(BaseModel):
    """Everything that makes a run, so that it can be made again."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    model: str = _option(
        "ghostsearch:digits_cnn",
        INPUT,
        "torchvision:NAME, timm:NAME, ghostsearch:NAME, package.module:function (runs that code).",
    )
    weights: str | None = _option(None, INPUT, "Trained weights, .safetensors or .pt (read with weights_only).")
    classes: int | None = _option(None, INPUT, "Adapt the classifier to this many classes.", ge=1)
    size: int | None = _option(
        None, INPUT, "Image side in pixels; default: what the model was made for.", ge=1, le=4096
    )
    data: str = _option("digits", INPUT, "digits, folder:PATH, torchvision:CIFAR10@ROOT or package.module:function.")
    validation_list: str | None = _option(
        None, INPUT, "File that lists the images of the selection split, one path a line."
    )
    train_images: int | None = _option(None, INPUT, "Use only this many training images, stratified.", ge=1)
    task: str = _option("classification", INPUT, "classification, or package.module:object with a loss and a score.")

    space: str = _option(
        "quickstart", SPACE, "A YAML file or a preset: ghost, ghost_width, quickstart, paper_vgg, families."
    )
    objectives: Texts = _option(
        ("score", "latency", "params"), SPACE, "Axes of the front: score, latency, macs, params, memory."
    )
    sampler: Literal["tpe", "nsga2", "gp", "random"] = _option(
        "tpe", SPACE, "Optuna's sampler: tpe, nsga2, gp or random."
    )
    seeds: Literal["none", "uniform", "solver", "only solver"] = _option(
        "solver",
        SPACE,
        "What the study starts from: none (the baseline), uniform (and each choice everywhere), solver (and the "
        "integer program's answers over a candidate table), only solver (those instead of the uniform ones).",
    )
    veto: bool = _option(
        True, SPACE, "Where latency counts, leave out choices that do not pay against the baseline layer on the device."
    )

    max_latency: str | None = _option(None, BUDGET, "Latency limit, absolute (12ms) or of the baseline (60%).")
    max_macs: str | None = _option(None, BUDGET, "MACs limit, absolute (300M) or of the baseline (50%).")
    max_params: str | None = _option(None, BUDGET, "Parameter limit, absolute (4M) or of the baseline (50%).")
    max_memory: str | None = _option(
        None, BUDGET, "Peak activation memory limit, absolute (8MB) or of the baseline (50%)."
    )
    min_accuracy: float | None = _option(None, BUDGET, "Least score of a model on the front, from 0 to 1.", ge=0, le=1)
    trials: int = _option(24, BUDGET, "Architectures to evaluate, the baseline and the uniform ones included.", ge=1)
    finalists: int = _option(10, BUDGET, "Models of the front to train on and measure again, at most.", ge=1)

    epochs: int = _option(
        1, TRAINING, "Proxy epochs of a trial that every rung promotes (rungs: 0, 1, 3, … epochs).", ge=0
    )
    final_epochs: int = _option(4, TRAINING, "Further epochs of each finalist.", ge=0)
    baseline_epochs: int | None = _option(
        None, TRAINING, "Epochs to train the baseline first; default: 12 without --weights, else 0.", ge=0
    )
    calibration_images: int = _option(
        512, TRAINING, "Images for the closed-form weights; 0 copies weights instead.", ge=0
    )
    distill_steps: int = _option(0, TRAINING, "Label-free block distillation steps after the closed form.", ge=0)
    batch_size: int = _option(64, TRAINING, "Images a training step.", ge=1)
    lr: float | None = _option(None, TRAINING, "Highest learning rate; default: the recipe's.", gt=0)
    train_device: str = _option("cpu", TRAINING, "Where to train: cpu, cuda, cuda:1 or auto.")

    device: Texts = _option(("onnxruntime:cpu",), MACHINE, "Where latency is measured; repeat it for several.")
    threads: int = _option(1, MACHINE, "Threads of the runtime when measuring.", ge=1)
    batch: int = _option(1, MACHINE, "Images a forward when measuring.", ge=1)
    precision: str = _option("float32", MACHINE, "float32, or float16/bfloat16 where the device has it.")
    channels_last: bool = _option(True, MACHINE, "Memory order of PyTorch's own devices when measuring.")
    time_limit: float = _option(2.0, MACHINE, "Seconds of timing a trial and device, at most.", gt=0)
    cell_time_limit: float = _option(
        0.1, MACHINE, "Seconds of timing a layer under one choice for the latency table, at most.", gt=0
    )
    final_time_limit: float = _option(20.0, MACHINE, "Seconds of timing all finalists on a device, at most.", gt=0)
    out: str = _option("ghostsearch-run", MACHINE, "Study directory; the same command goes on with what is there.")
    storage: str | None = _option(
        None, MACHINE, "Where the study's trials live: default SQLite in the directory; journal:FILE, postgresql://…."
    )
    engine: Literal["optuna", "ray"] = _option(
        "optuna", MACHINE, "optuna: trials in this process; ray: in actors of a Ray cluster."
    )
    ray_address: str | None = _option(None, MACHINE, "Ray cluster to join; default: start one on this machine.")
    resources: Texts = _option(("cpu=1",), MACHINE, "Resources of a trial under Ray, such as cpu=2,gpu=0.5.")
    seed: int = _option(0, MACHINE, "Seed of everything random.", ge=0)

    @field_validator("objectives")
    @classmethod
    def _known_axes(cls, axes: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(dict.fromkeys("score" if a == "accuracy" else a for a in axes))
        unknown = [a for a in named if a not in AXES]
        if unknown or "score" not in named or len(named) < 2:
            raise ValueError(f"objectives are score and at least one more of {', '.join(AXES[1:])}")
        return named

    @model_validator(mode="after")
    def _limits_parse(self) -> RunConfig:
        try:
            self.limits()
        except GhostsearchError as error:
            raise ValueError(str(error)) from None
        return self

    def limits(self) -> tuple[Limit, ...]:
        """The upper bounds asked for."""
        texts = {axis: getattr(self, f"max_{axis}") for axis in FACTORS}
        return tuple(parse_limit(axis, text) for axis, text in texts.items() if text is not None)

    def rungs(self) -> tuple[int, ...]:
        """Proxy epochs at which a trial is scored and promoted or stopped: 0, 1, 3, …, `epochs`."""
        return tuple(sorted({r for r in (0, 1, 3, 9, 27) if r < self.epochs} | {self.epochs}))

    def baseline_training(self) -> int:
        """Epochs the baseline is trained before the search."""
        if self.baseline_epochs is not None:
            return self.baseline_epochs
        return 0 if self.weights else 12


FREE = frozenset(
    {
        "out",
        "trials",
        "finalists",
        "final_epochs",
        "final_time_limit",
        "cell_time_limit",
        "engine",
        "ray_address",
        "resources",
        "max_latency",
        "max_macs",
        "max_params",
        "max_memory",
        "min_accuracy",
        "seeds",
    }
)
"""Fields that may change when a study goes on; all others make another study."""


def configure(given: dict[str, Any], file: Path | None = None) -> RunConfig:
    """The run of a run.yaml, overridden by the values given; raises GhostsearchError naming the field that is wrong."""
    base = read_run(file) if file else {}
    try:
        return RunConfig.model_validate({**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = key_of(first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        prefix = f"{file}: " if file and where.partition(".")[0] not in given else ""
        value = f", got {reprlib.repr(first['input'])[:80]}" if where else ""
        raise GhostsearchError(f"{prefix}{where + ': ' if where else ''}{message}{value}") from None


def read_run(file: Path) -> dict[str, Any]:
    """The mapping in a run.yaml; raises GhostsearchError when it is missing, too large or no mapping."""
    data = read_yaml(file)
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise GhostsearchError(f"{file}: a run file maps option names to values")
    return data
