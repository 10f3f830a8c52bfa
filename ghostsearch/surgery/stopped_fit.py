"""What a fit or a distillation that was stopped leaves on disk; the same one goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import tensors
from ghostsearch.models.stored import raw_bytes, read_checkpoint, write_checkpoint, write_tensors
from ghostsearch.space.architecture import Architecture
from ghostsearch.version import VERSION

if TYPE_CHECKING:
    from ghostsearch.surgery.fit_model import ModelFit


@dataclass(frozen=True)
class StoppedFit:
    """A file that holds the layers fitted so far, and whether the fit shall stop."""

    path: Path
    asked: Callable[[], bool]
    """Whether to stop after the layer at work."""
    more: bool = False
    """Whether what follows the fit takes long: then a finished fit is kept too."""

    def after(self, key: str, fit: ModelFit, done: int, *, last: bool) -> None:
        """Keep the layers done where the fit shall stop, which KeyboardInterrupt then ends, or was the last of them.

        Raises GhostsearchError where the file cannot be written.
        """
        asked = self.asked()
        if asked or (last and self.more):
            parts = {"student": fit.student.state_dict(), "narrow": fit.narrow.state_dict(), "channels": fit.channels}
            state = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
            about = {"done": done, "fitted": fit.fitted, "not_fitted": fit.not_fitted}
            write_tensors(self.path, state, {"key": key, "about": json.dumps(about)})
        if asked:
            raise KeyboardInterrupt

    def take(self, key: str, fit: ModelFit) -> int:
        """Put the layers of the file into the fit; returns how many, 0 where there is no file of this very fit."""
        try:
            with safe_open(self.path, "pt", device=str(fit.statistics.device)) as file:
                notes = file.metadata() or {}
                if notes.get("key") != key:
                    return 0
                found: dict[str, dict[str, Any]] = {"student": {}, "narrow": {}, "channels": {}}
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    part, _, rest = name.partition(".")
                    found[part][rest] = file.get_tensor(name)
        except (OSError, SafetensorError):
            return 0
        about = json.loads(notes["about"])
        fit.student.load_state_dict(found["student"])
        # The narrow net may share its tensors with others: it gets new ones instead of new values.
        fit.narrow.load_state_dict(found["narrow"], assign=True)
        fit.channels.update(found["channels"])
        fit.fitted[:], fit.not_fitted = about["fitted"], about["not_fitted"]
        return int(about["done"])

    def after_step(self, key: str, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state of a distillation where it shall stop, which KeyboardInterrupt then ends.

        Raises GhostsearchError where the file cannot be written.
        """
        if self.asked():
            write_checkpoint({"key": key, **state()}, self._steps)
            raise KeyboardInterrupt

    def take_steps(self, key: str) -> dict[str, Any]:
        """The state that this very distillation was stopped in; empty where there is none."""
        try:
            found = read_checkpoint(self._steps)
        except GhostsearchError:
            return {}
        return found if found.get("key") == key else {}

    @property
    def _steps(self) -> Path:
        return self.path.with_suffix(".steps")

    def forget(self) -> None:
        """Remove the files, when what they were kept for is done."""
        self.path.unlink(missing_ok=True)
        self._steps.unlink(missing_ok=True)


def key_of(fit: ModelFit, architecture: Architecture) -> str:
    """What a fit is made from, as a digest: architecture, settings, device, weights, images, and who fits."""
    # The student alone would not do: weights of a dropped branch are not in it, but fitted to.
    models = fit.statistics.teacher.state_dict(), fit.student.state_dict()
    return digest_of([architecture.digest, fit.settings, str(fit.statistics.device)], models, fit.statistics.batches)


def digest_of(about: Sequence[Any], *given: Iterable[Any]) -> str:
    """Digest of what something is made from: settings, and tensors in any structure."""
    found = hashlib.sha256(repr([VERSION, *about]).encode())
    for item in chain(*given):
        for value in tensors(item):
            found.update(raw_bytes(value))
    return found.hexdigest()
