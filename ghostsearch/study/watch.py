"""What accompanies a search from stage to stage: its directory, progress, when to stop, and the seconds spent."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ghostsearch.shown import Progress


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's wall time to a stage."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Watch:
    """Beside the stages, none of which it changes."""

    folder: Path
    progress: Progress | None = None
    interrupted: Callable[[], bool] = lambda: False
    """Whether Ctrl-C was pressed: what runs is finished, nothing further is begun."""
    on_trial: Callable[[], None] = lambda: None
    """Called after each trial, between two timings."""
    budget_s: float | None = None
    """Wall seconds that the whole search may take."""
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by stage, in this process."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's wall time to a stage, its interruption too."""
        with timed(self.seconds, name):
            yield

    def tell(self, done: int, total: int, text: str) -> None:
        """Show progress where somebody looks on."""
        if self.progress:
            self.progress(done, total, text)

    def telling(self, stage: str, *, kept: bool = False) -> Progress:
        """A progress callback whose text starts with the stage.

        Where each step's result is `kept` on disk, Ctrl-C ends the stage at the next step with KeyboardInterrupt.
        """
        show = ending(self.tell, self.interrupted) if kept else self.tell

        def told(done: int, total: int, text: str) -> None:
            # What ends only after its step shall say that Ctrl-C was heard.
            stopping = " · stopping soon" if self.interrupted() else ""
            show(done, total, f"{text if text.startswith(stage) else f'{stage}: {text}'}{stopping}")

        return told

    def left_s(self) -> float:
        """Seconds of the time budget that are left; infinite without one."""
        return float("inf") if self.budget_s is None else self.budget_s - (time.perf_counter() - self.started)


def ending(progress: Progress | None, interrupted: Callable[[], bool]) -> Progress:
    """A progress callback that ends its stage with KeyboardInterrupt at the next step once Ctrl-C was pressed."""

    def told(done: int, total: int, text: str) -> None:
        if interrupted():
            raise KeyboardInterrupt
        if progress:
            progress(done, total, text)

    return told


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is only remembered; the second raises KeyboardInterrupt."""
    asked = False

    def remember(number: int, stack: object) -> None:  # noqa: ARG001
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:
        # Not the main thread (a notebook's worker, a test): interrupts go where they always went.
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
