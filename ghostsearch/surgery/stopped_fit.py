"""What a fit that was stopped leaves on disk; the same fit goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ghostsearch.files import atomic_path
from ghostsearch.graph.capture import tensors
from ghostsearch.space.architecture import Architecture

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

    def keep(self, key: str, fit: ModelFit, done: int) -> None:
        """Write what the fit of so many layers has changed; raises GhostsearchError where that is refused."""
        parts = {"student": fit.student.state_dict(), "narrow": fit.narrow.state_dict(), "channels": fit.channels}
        # Tied tensors are written once for each name.
        state = {
            f"{part}.{name}": value.detach().cpu().clone().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        about = {"done": done, "fitted": fit.fitted, "not_fitted": fit.not_fitted}
        with atomic_path(self.path) as temporary:
            save_file(state, temporary, metadata={"key": key, "about": json.dumps(about)})

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
    """What a fit is made from, as a digest: architecture, settings, device, weights and images."""
    found = hashlib.sha256(repr([architecture.digest, fit.settings, str(fit.statistics.device)]).encode())
    for value in (*fit.student.state_dict().values(), *tensors(fit.statistics.batches)):
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
