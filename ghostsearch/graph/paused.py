"""Runs a model that cannot be traced over several batches at once, each paused where a layer is reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostsearch.graph.capture import call, hooked, tensors
from ghostsearch.graph.flow import LAYERS, Place

Visit = Callable[[int, Tensor], None]
_CURRENT = threading.local()
"""The run whose thread this is."""


class PausedRuns:
    """One forward for each batch, in its own thread; one of them runs at a time.

    A forward waits before each layer that is still to be fitted, so a layer that changes meanwhile is seen by what
    comes after it, and the whole fit costs one forward per batch, as with a traced graph. Use as a context manager,
    which ends the forwards.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], paths: Sequence[str]) -> None:
        self.model, self.waiting = model, {path: i for i, path in enumerate(paths)}
        self.runs = [_Run(self, batch) for batch in batches]
        self.handles = [
            model.get_submodule(path).register_forward_pre_hook(self._pause(path), with_kwargs=True)
            for path in self.waiting
        ]

    def __enter__(self) -> PausedRuns:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        for run in self.runs:
            run.stop()

    def _pause(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            run = getattr(_CURRENT, "run", None)
            if run is not None and path in self.waiting:
                run.pause(path, next(tensors((args, kwargs))))

        return hook

    def reach(self, path: str, visit: Visit) -> None:
        """Let each batch's forward go on to a layer and hand over what the layer reads: visit(batch, x).

        A forward that does not reach this layer runs on to the next one that it waits for, or to its end.
        """
        place = self.waiting[path]
        for number, run in enumerate(self.runs):
            while not run.done and (run.at is None or self.waiting.get(run.at, -1) < place):
                run.resume()
            if run.at == path and run.x is not None:
                visit(number, run.x)

    def pass_by(self, path: str) -> None:
        """A layer is fitted: forwards wait there no longer."""
        self.waiting.pop(path, None)


class _Run:
    """A forward in a thread, which runs only while its owner waits for it."""

    def __init__(self, owner: PausedRuns, batch: Any) -> None:
        self.owner, self.batch = owner, batch
        self.at: str | None = None
        self.x: Tensor | None = None
        self.done = self.stopped = False
        self.trouble: BaseException | None = None
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._forward, daemon=True)

    def resume(self) -> None:
        """Let the forward go on to its next pause or its end."""
        self.at = self.x = None
        if not self.thread.is_alive():
            self.thread.start()
        self.go.release()
        self.back.acquire()
        if self.trouble is not None:
            raise self.trouble

    def pause(self, path: str, x: Tensor) -> None:
        """In the thread: wait until the owner lets the forward go on."""
        self.at, self.x = path, x
        self.back.release()
        self.go.acquire()
        if self.stopped:
            raise _Stopped

    def stop(self) -> None:
        """End the forward where it stands."""
        if self.thread.is_alive():
            self.stopped = True
            self.go.release()
            self.thread.join()

    def _forward(self) -> None:
        _CURRENT.run = self
        self.go.acquire()
        try:
            with torch.no_grad():
                if not self.stopped:
                    call(self.owner.model, self.batch)
        except _Stopped:
            pass
        # Whatever a foreign forward raises is the owner's to report.
        except BaseException as error:  # noqa: BLE001
            self.trouble = error
        finally:
            self.done, self.at = True, None
            self.back.release()


class _Stopped(BaseException):
    """Nobody waits for this forward any more."""


def watched_places(model: nn.Module, batch: Any) -> dict[str, Place]:
    """Places of an untraceable model's layers, in the order they run: only a BatchNorm right behind a layer is seen.

    Sums and activations stay unseen, so each layer is fitted to the baseline's value at its own (or its
    norm's) output.
    """
    seen: list[tuple[str, nn.Module, Any, Any]] = []
    kinds = (*LAYERS, _BatchNorm)
    watched: dict[nn.Module, str] = {m: path for path, m in model.named_modules() if isinstance(m, kinds)}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append((watched[module], module, next(tensors(args), None), output))

    with torch.no_grad(), hooked((module, note) for module in watched):
        call(model, batch)
    counts: dict[str, int] = {}
    for path, *_ in seen:
        counts[path] = counts.get(path, 0) + 1
    norms = {id(x): path for path, module, x, _ in seen if isinstance(module, _BatchNorm) and counts[path] == 1}
    places = {}
    for path, module, _, output in seen:
        if isinstance(module, LAYERS) and counts[path] == 1:
            norm = norms.get(id(output))
            places[path] = Place(path, norm, path, norm or path)
    return places
