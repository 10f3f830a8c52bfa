"""Runs a model that cannot be traced over several batches at once, each paused where a layer is reached."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from ghostsearch.graph.capture import call, hooked, tensors
from ghostsearch.graph.flow import LAYERS, Place, is_fitted_norm, is_over_channels

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
    """Places of an untraceable model's layers, in the order they run: only a BatchNorm that alone reads one is seen.

    Sums and activations stay unseen, so each layer is fitted to the baseline's value at its own (or its
    norm's) output.
    """
    seen: list[tuple[str, nn.Module, Any, Any]] = []
    kinds = (*LAYERS, _BatchNorm)
    watched: dict[nn.Module, str] = {m: path for path, m in model.named_modules() if isinstance(m, kinds)}

    reads = _Reads()

    def enter(module: nn.Module, _: Any) -> None:
        reads.inside.append(watched[module])

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        reads.inside.pop()
        reads.fresh(output)
        seen.append((watched[module], module, next(tensors(args), None), output))

    with torch.no_grad(), ExitStack() as stack:
        for module in watched:
            stack.enter_context(module.register_forward_pre_hook(enter))
        stack.enter_context(hooked((module, note) for module in watched))
        stack.enter_context(reads)
        for given in tensors(call(model, batch)):
            reads.readers.setdefault(id(given), set()).add("")
    counts = Counter(path for path, *_ in seen)
    norms = {id(x): path for path, module, x, _ in seen if is_fitted_norm(module) and counts[path] == 1}
    places = {}
    for path, module, _, output in seen:
        if isinstance(module, LAYERS) and counts[path] == 1:
            norm = norms.get(id(output))
            if norm and (
                reads.of(output) != {norm}
                or reads.shares(model.get_submodule(norm), norm)
                or not is_over_channels(module, output.shape)
            ):
                norm = None
            places[path] = Place(path, norm, path, norm or path, tied=reads.shares(module, path))
    return places


class _Reads(TorchDispatchMode):
    """Notes which module, of those that say when they begin and end, computes with a tensor; "" is the code outside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = [""]
        self.readers: dict[int, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs)):
            self.readers.setdefault(id(tensor), set()).add(self.inside[-1])
        return func(*args, **(kwargs or {}))

    def fresh(self, value: Any) -> None:
        """A value is new, whatever had its place in memory before."""
        self.readers.pop(id(value), None)

    def of(self, value: Any) -> set[str]:
        """Who has read a value that is still held."""
        return self.readers.get(id(value), set())

    def shares(self, module: nn.Module, path: str) -> bool:
        """Whether anything but the module itself reads its parameters."""
        return any(self.of(p) - {path} for p in module._parameters.values() if p is not None)
