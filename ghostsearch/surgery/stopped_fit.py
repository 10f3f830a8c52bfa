"""What a fit that was stopped leaves on disk; the same fit goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ghostsearch.graph.capture import tensors
from ghostsearch.models.stored import raw_bytes, write_tensors
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

    def forget(self) -> None:
        """Remove the file, when what it was kept for is done."""
        self.path.unlink(missing_ok=True)


def key_of(fit: ModelFit, architecture: Architecture) -> str:
    """What a fit is made from, as a digest: architecture, settings, device, weights, images, and who fits."""
    about = [VERSION, architecture.digest, fit.settings, str(fit.statistics.device)]
    found = hashlib.sha256(repr(about).encode())
    # The student alone would not do: weights of a dropped branch are not in it, but fitted to.
    for given in chain((fit.statistics.teacher.state_dict(), fit.student.state_dict()), fit.statistics.batches):
        for value in tensors(given):
            found.update(raw_bytes(value))
    return found.hexdigest()
