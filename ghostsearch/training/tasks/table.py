"""The tasks that `--task` names; a new one is one file and one row."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.agreement import Agreement
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
from ghostsearch.training.tasks.detection import Detection
from ghostsearch.training.tasks.multilabel import MultiLabel
from ghostsearch.training.tasks.regression import Regression
from ghostsearch.training.tasks.restoration import Restoration
from ghostsearch.training.tasks.segmentation import Segmentation
from ghostsearch.training.tasks.signals import Signals
from ghostsearch.usercode import import_object, is_object_name

TASKS: dict[str, Callable[[], Task]] = {
    "classification": Classification,
    "multilabel": MultiLabel,
    "segmentation": Segmentation,
    "detection": Detection,
    "regression": Regression,
    "restoration": Restoration,
    "signals": Signals,
}


def load_task(name: str = "classification") -> Task:
    """The task of a name, or the user's own `package.module:object`, which runs that code.

    The object may be a Task, or a class or function that makes one without arguments.
    Raises GhostsearchError when it is neither.
    """
    if name in TASKS:
        return TASKS[name]()
    if not is_object_name(name):
        raise GhostsearchError(f"no task {name!r}; write {', '.join(TASKS)} or package.module:object")
    found = import_object(name, "task")
    task = found if isinstance(found, Task) or not callable(found) else found()
    if not isinstance(task, Task):
        raise GhostsearchError(
            f"task {name!r} is a {type(task).__name__}; subclass ghostsearch.training.tasks.base.Task"
        )
    if not isinstance(getattr(task, "metric", None), str):
        raise GhostsearchError(f"task {name!r} names no metric; set the class attribute metric = 'mIoU' or the like")
    return task


def task_of_kind(kind: str) -> str:
    """The first task that reads targets of a kind (`Data.kind`); classification where none says so."""
    named = {name: getattr(task, "kinds", ()) for name, task in TASKS.items()}
    return next((name for name, kinds in named.items() if kind in kinds), "classification")


def task_for(name: str, *, labelled: bool, baseline: nn.Module) -> Task:
    """The task of a name; on data without labels its agreement with the baseline (`baseline` is copied)."""
    task = load_task(name)
    return task if labelled else Agreement(task, baseline)
