"""`--from STUDY`: what a new study takes from an old one: its trained baseline, candidate table and trials.

Only what would come out the same is taken; the rest is named and made anew. Timed layers need no old study: the user's
cache has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Record, Score, StudyView
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.config import FREE, RunConfig
from ghostsearch.study.directory import baseline_directory, environment, kept_directory, load_study, read_study
from ghostsearch.study.fingerprint import changed_since, known_by
from ghostsearch.study.recommendation import BASELINE
from ghostsearch.surgery.saved import load_directory
from ghostsearch.training.recipe import Recipe
from ghostsearch.yaml_files import RUN

ANYWHERE = {"space", "storage", "veto"}
"""Options that no trial's figures depend on: a trial outside the new space is left by itself."""
TRIAL_ONLY = {
    "batch", "channels_last", "device", "distill_steps", "epochs", "keep_float", "narrow", "precision", "threads"
}  # fmt: skip
"""Options that trials depend on, but neither the trained baseline nor the candidate table."""
RECIPE = set(Recipe.model_fields) - {"seed"}
SETTING = ("command", "date")
"""What a study's environment holds besides what its latencies depend on."""


@dataclass(frozen=True)
class Earlier:
    """The old study, and what has been taken of it and what not, in words."""

    view: StudyView
    config: RunConfig
    taken: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    changed: str = ""
    """What of the images and weights is another than the old study's, in words."""

    @property
    def folder(self) -> Path:
        """The old study's directory."""
        return Path(self.view.directory)

    def facing(self, now: Mapping[str, str]) -> Earlier:
        """As it is for a new run whose images and weights are known by these."""
        return replace(self, changed=changed_since(known_by(read_study(self.folder)), now))

    def differs(self, config: RunConfig, *, trials: bool = False) -> str:
        """In what the old study's table, or its trials, were made otherwise than the new run's would be."""
        ignored = FREE | ANYWHERE
        if not trials:
            ignored |= TRIAL_ONLY if config.baseline_training() else TRIAL_ONLY | RECIPE
        before, now = self.config.model_dump(), config.model_dump()
        changed = [f"{k} {before[k]} → {v}" for k, v in now.items() if k not in ignored and v != before[k]]
        if trials and config.counts_latency():
            here = {k: v for k, v in environment().items() if k not in SETTING}
            changed += [f"{k} {self.view.environment.get(k)} → {v}" for k, v in here.items()
                        if v != self.view.environment.get(k)]  # fmt: skip
        # Another seed or number of images makes other splits.
        return ", ".join(changed[:3]) or self.changed

    def baseline(self, config: RunConfig, given: nn.Module) -> dict[str, Any] | None:
        """The weights of the old study's baseline; None, noted, where the new run's would be others.

        given: the new run's baseline before any training.
        """
        kept, why = baseline_directory(self.folder), self.differs(config)
        if not why and not (kept / "architecture.json").exists():
            why = "its directory has no baseline"
        if not why:
            found = load_directory(kept, model=given).module.state_dict()
            if config.baseline_training():
                self.taken.append("the trained baseline")
                return found
            if _equal(found, given.state_dict()):
                return found
            why = "other weights"
        self.left.append(f"its table and trials ({why})")
        return None

    def rows(self, known: Sequence[dict[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
        """Those of the old candidate table's rows that are of the space and did not fail."""
        if self.left:
            return []
        if self.view.width_multiple not in (None, space.width_multiple):
            self.left.append(
                f"its table and trials (width_multiple {self.view.width_multiple} → {space.width_multiple})"
            )
            return []
        offered = {"site": space.sites, "group": space.groups}
        rows = [r for r in known if not r["failed"] and r["choice"] in offered[r["kind"]].get(r["name"], ())]
        self.taken.extend([f"{len(rows)} rows of the candidate table"] * bool(rows))
        return rows

    def trials(self, config: RunConfig, space: SearchSpace, baseline: Score) -> list[Record]:
        """The old study's finished trials that this run would have come to.

        baseline: what the baseline scores on the validation images as they are now.
        """
        if self.left:
            return []
        # The trial, not the finalist, which may be scored by another program.
        before = next((r for r in self.view.records if r.digest == BASELINE), None)
        why = self.differs(config, trials=True)
        score = before.score() if before else None
        if not why and (score is None or not _same(score, baseline)):
            why = "the baseline scored otherwise there"
        if why:
            self.left.append(f"its trials ({why})")
            return []
        found = [r for r in self.view.records if r.state != "failed" and space.offers(r.architecture)]
        self.taken.append(f"{len(found)} of {len(self.view.records)} trials")
        return found

    def copy_weights(self, records: Sequence[Record], folder: Path) -> None:
        """Copy the weights that the old study kept of trials into a study's directory."""
        for record in records:
            kept = kept_directory(self.folder, record.digest)
            if kept.is_dir():
                shutil.copytree(kept, kept_directory(folder, record.digest), dirs_exist_ok=True)

    def begun(self, digests: Collection[str], notes: Sequence[str]) -> bool:
        """Whether a study of such trials may be one that was killed while it took these over, or before."""
        known = {r.digest for r in self.view.records}
        return known.issuperset(digests) and not any(note.startswith(f"from {self.folder}: ") for note in notes)

    def told(self) -> str:
        """One line: what was taken, and what was not and why."""
        left = f"; not taken: {', '.join(self.left)}" if self.left else ""
        return f"from {self.folder}: {', '.join(self.taken) or 'nothing'} taken{left}"


def open_earlier(config: RunConfig) -> Earlier | None:
    """The study that a run starts from; None where it names none, or was begun and the old study is gone.

    Raises GhostsearchError where there is none there.
    """
    if not config.from_study:
        return None
    folder = Path(config.from_study)
    if not folder.exists() and (Path(config.out) / RUN).is_file():
        return None
    if folder.resolve() == Path(config.out).resolve():
        raise GhostsearchError(f"--from {folder}: that is this study's own directory; choose another --out")
    view = load_study(folder)
    return Earlier(view, RunConfig(**view.config))


def _same(one: Score, other: Score) -> bool:
    return isclose(one.value, other.value, rel_tol=1e-6) and (one.images, one.right) == (other.images, other.right)


def _equal(some: dict[str, Any], others: dict[str, Any]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(v.cpu(), others[k].cpu()) for k, v in some.items())
