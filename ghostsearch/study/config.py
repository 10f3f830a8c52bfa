"""A run as data: run.yaml, the options of `ghostsearch search` and the argument of `search()` are this one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from ghostsearch.data.options import ImageOptions
from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.setting import DEVICE_HELP, KEEP_FLOAT_HELP, MEASURING, Setting
from ghostsearch.models.options import INPUT, ModelOptions
from ghostsearch.options import OptionError, Texts, option, refused, without_effect
from ghostsearch.space.limits import BUDGET, Limits, parse_duration
from ghostsearch.space.preset import QUICK_START, SPACE_HELP, default_space
from ghostsearch.surgery.options import FitOptions
from ghostsearch.training.recipe import TRAINING, Recipe
from ghostsearch.yaml_files import read_yaml

AXES = ("score", "latency", "macs", "params", "memory")
"""What an objective may be; `score` is the task's metric, `latency` one axis a device."""

SPACE, MACHINE = "Search space", "Machine"
RENAMED = {"train_device": "compute_device", "int8": "int8_baseline"}
"""Options of older run files by the names they have now."""


class RunConfig(ModelOptions, ImageOptions, FitOptions, Setting, Recipe, Limits):
    """Everything that makes a run, so that it can be made again."""

    model: str = option(
        QUICK_START,
        "torchvision:NAME, timm:NAME, ghostsearch:NAME, package.module:function (runs that code).",
        panel=INPUT,
    )

    space: str = option(
        "",
        SPACE_HELP,
        panel=SPACE,
    )
    objectives: Texts = option(
        ("score", "latency", "params"), "Axes of the front: score, latency, macs, params, memory.", panel=SPACE
    )
    sampler: Literal["table", "tpe", "nsga2", "gp", "random"] = option(
        "table",
        "table (the candidate table, corrected by every trial), or Optuna's tpe, nsga2, gp or random.",
        panel=SPACE,
    )
    seeds: Literal["none", "uniform", "solver", "only solver"] = option(
        "solver",
        "What the study starts from: none (the baseline), uniform (and each choice everywhere), solver (and the "
        "integer program's answers over a candidate table), only solver (those instead of the uniform ones). With the "
        "table sampler, solver means the baseline and then the program's answers, no uniform ones.",
        panel=SPACE,
    )
    veto: bool = option(
        True,
        "Where latency counts, leave out choices that are not faster than the baseline layer on this device.",
        panel=SPACE,
    )

    time_budget: str | None = option(
        None,
        "Wall time of the search, such as 90min or 2h: trials and finalists for which it is too short are left out; "
        "what comes before the trials is not cut short.",
        panel=BUDGET,
    )
    trials: int = option(24, "Architectures to evaluate, the baseline included.", panel=BUDGET, ge=1)
    finalists: int = option(
        10, "Maximum number of models of the front to train further and measure again.", panel=BUDGET, ge=1
    )

    epochs: int = option(
        1, "Proxy epochs of a trial that every rung promotes (rungs: 0, 1, 3, … epochs).", panel=TRAINING, ge=0
    )
    final_epochs: int = option(4, "Further epochs of each finalist.", panel=TRAINING, ge=0)
    baseline_epochs: int | None = option(
        None, "Epochs to train the baseline first; default: 12 without --weights, else 0.", panel=TRAINING, ge=0
    )
    trained_on: Literal["unknown", "others", "same"] = option(
        "unknown",
        "What --weights were trained on; others: on none of the validation and test images; same: on the validation "
        "images, which the report then says.",
        panel=TRAINING,
    )

    device: Texts = option(("onnxruntime:cpu",), f"{DEVICE_HELP}; repeatable.", panel=MEASURING)
    int8_baseline: bool = option(
        False,
        "Measure the baseline in int8 too, as a reference; a search on an int8 device always shows both.",
        panel=MEASURING,
    )
    keep_float: Texts = option(
        (),
        KEEP_FLOAT_HELP,
        panel=MEASURING,
    )
    time_limit: float = option(2.0, "Time budget for timing per trial and device, in seconds.", panel=MEASURING, gt=0)
    cell_time_limit: float = option(
        0.1, "Time budget per layer and choice of the latency table, in seconds.", panel=MEASURING, gt=0
    )
    final_time_limit: float = option(
        20.0, "Time budget for timing all finalists per device, in seconds.", panel=MEASURING, gt=0
    )
    out: str = option(
        "",
        "Study directory; rerun the same command to resume. Default: named after model and date, or the newest such "
        "one that holds this study.",
        panel=MACHINE,
    )
    from_study: str = option(
        "",
        "An earlier study's directory: its trained baseline, candidate table and trials are taken where model, "
        "weights, data, space and settings agree; taken trials count towards --trials.",
        panel=MACHINE,
        flags=("--from",),
    )
    storage: str | None = option(
        None,
        "Where the study's trials live: default SQLite in the directory; journal:FILE, postgresql://….",
        panel=MACHINE,
    )
    engine: Literal["optuna", "ray"] = option(
        "optuna", "optuna: trials in this process; ray: in actors of a Ray cluster.", panel=MACHINE
    )
    ray_address: str | None = option(None, "Ray cluster to join; default: start one on this machine.", panel=MACHINE)
    resources: Texts = option(("cpu=1",), "Resources of a trial under Ray, such as cpu=2,gpu=0.5.", panel=MACHINE)

    @model_validator(mode="before")
    @classmethod
    def _older_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # `lr: null` stood for the recipe's.
        values = {RENAMED.get(k, k): v for k, v in values.items() if (k, v) != ("lr", None)}
        return {**values, "space": values.get("space") or default_space(values.get("model", QUICK_START))}

    @field_validator("objectives")
    @classmethod
    def _known_axes(cls, axes: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(dict.fromkeys("score" if a == "accuracy" else a for a in axes))
        unknown = [a for a in named if a not in AXES]
        if unknown or "score" not in named or len(named) < 2:
            raise ValueError(f"objectives are score and at least one more of {', '.join(AXES[1:])}")
        return named

    @field_validator("device")
    @classmethod
    def _some_device(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        if not devices:
            raise ValueError("name at least one device, such as onnxruntime:cpu; a latency limit holds on those named")
        return tuple(dict.fromkeys(devices))

    @model_validator(mode="after")
    def _texts_parse(self) -> RunConfig:
        with refused():
            self.budget_s()
            if self.engine == "ray":
                self.trial_resources()
        return self

    @property
    def scores_int8(self) -> bool:
        """Whether the models will run in int8: a device of the run says so, and scores are int8 scores."""
        return any(device.endswith(":int8") for device in self.device)

    def axes(self) -> tuple[str, ...]:
        """The axes of the search: the objectives, then what else is limited."""
        return tuple(dict.fromkeys([*self.objectives, *(x.axis for x in self.limits())]))

    def counts_latency(self) -> bool:
        """Whether latency is an objective or limited."""
        return "latency" in self.axes()

    def budget_s(self) -> float | None:
        """Wall seconds that the search may take; None without a time budget."""
        return None if self.time_budget is None else parse_duration(self.time_budget)

    def trial_resources(self) -> dict[str, float]:
        """Ray's resources of `cpu=2`, `gpu=0.5`, …; raises GhostsearchError where one is no amount."""
        found: dict[str, float] = {}
        for text in self.resources:
            name, _, amount = (part.strip() for part in text.partition("="))
            try:
                value = float(amount)
            except ValueError:
                value = math.nan
            if not (name and 0 <= value < math.inf):
                raise GhostsearchError(f"resources {text!r} names no amount of at least 0; write cpu=2,gpu=0.5")
            found[name.lower() if name.lower() in ("cpu", "gpu") else name] = value
        return found

    def longest_training(self) -> int:
        """Epochs that every finalist and the trained baseline have had in the end."""
        return self.epochs + self.final_epochs

    def rungs(self) -> tuple[int, ...]:
        """Proxy epochs at which a trial is scored and promoted or stopped: 0, 1, 3, …, `epochs`."""
        return tuple(sorted({r for r in (0, 1, 3, 9, 27) if r < self.epochs} | {self.epochs}))

    def baseline_training(self) -> int:
        """Epochs the baseline is trained before the search."""
        if self.baseline_epochs is not None:
            return self.baseline_epochs
        return 0 if self.weights else 12

    def flattered(self, cut: Sequence[str]) -> str:
        """A warning where the weights may have been trained on what they are scored on; empty where not.

        cut: splits that were cut from the training images.
        """
        if self.weights and self.trained_on == "same":
            return (
                "--weights were trained on the validation images (--trained-on same): scores rank models, but the "
                "baseline's is too good, and whatever changes it reads as a loss"
            )
        if not cut or not self.weights or self.trained_on == "others":
            return ""
        return (
            f"--weights may have been trained on the {' and '.join(sorted(cut))} images, which were cut from the "
            "training images: then the baseline's score is too good, and training reads as a loss; give images of "
            "their own by val/ and test/ folders or --validation-list, or add --trained-on others"
        )


class Gate(ImageOptions, ModelOptions, Setting, Limits):
    """The limits that a model must keep, and where and on what they are judged."""

    device: str = option("onnxruntime:cpu", f"{DEVICE_HELP}.", panel=MEASURING)
    baseline: str | None = option(
        None,
        "What shares and --max-drop refer to: a model, a directory or an .onnx file; default for a study's model: its "
        "baseline.",
        panel=BUDGET,
    )


FREE = frozenset(
    {
        "out",
        "from_study",
        "int8_baseline",
        "compute_device",
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
        "max_drop",
        "trained_on",
        "time_budget",
        "objectives",
        "sampler",
        "seeds",
        "time_limit",
    }
)
"""Fields that may change when a study is resumed; all others make another study."""


def configure(given: dict[str, Any], file: Path | None = None) -> RunConfig:
    """The run of a run.yaml, overridden by the values given.

    Raises GhostsearchError naming the field that is wrong, or that is given and would have no effect.
    """
    base = read_run(file) if file else {}
    try:
        run = RunConfig(**{**base, **given})
    except OptionError as error:
        if file is None or error.option.partition(".")[0] in given:
            raise
        raise GhostsearchError(f"{file}: {error}") from None
    # A file holds them whatever its engine.
    for name in sorted(given.keys() & {"ray_address", "resources"}):
        if run.engine != "ray":
            raise without_effect(name, "--engine ray")
    if given.get("trained_on", "unknown") != "unknown" and not run.weights:
        raise without_effect("trained_on", "--weights")
    return run


def read_run(file: Path) -> dict[str, Any]:
    """The mapping in a run.yaml; raises GhostsearchError when it is missing, too large or no mapping."""
    data = read_yaml(file)
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise GhostsearchError(f"{file}: a run file maps option names to values")
    return data
