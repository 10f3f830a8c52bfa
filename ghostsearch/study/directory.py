"""A study directory on disk: what is written, and how it is read back as a StudyView."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from ghostsearch.errors import GhostsearchError
from ghostsearch.files import cannot_write, dated_directory, read_json, write_text
from ghostsearch.machine import processor_name
from ghostsearch.records import Axis, Record, StudyView, upgraded
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.config import FREE, RunConfig, configure
from ghostsearch.study.ledger import records_of
from ghostsearch.study.store import DATABASE, open_storage, shown_url, storage_errors
from ghostsearch.version import versions
from ghostsearch.yaml_files import RUN

FORMAT, VERSION = "ghostsearch.study", 2
STUDY, OUTCOME, RECORDS = "study.json", "outcome.json", "records.jsonl"
SECONDS, TRIAL_WEIGHTS, BASELINE_TRAINING = "seconds.json", "weights", ".baseline.ckpt"
CLAIM_LOCK = ".claim.lock"


def write_run(folder: Path, config: RunConfig) -> None:
    """Write run.yaml: `ghostsearch search --config run.yaml` makes the same run."""
    data = config.model_dump(mode="json")
    if config.storage:
        # A password stays where it was: in the command, PGPASSWORD or the driver's own file.
        data["storage"] = _shown_storage(config.storage)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_text(folder / RUN, f"# ghostsearch search --config {RUN}   makes this run again\n{text}")


def placed(config: RunConfig) -> RunConfig:
    """The config with a directory: as given, else this model's newest here that holds its study, else a new one.

    As good as new is one that a command left which was killed before it began a study.
    """
    if config.out:
        return config

    def holds(folder: Path) -> bool:
        with suppress(GhostsearchError):
            check_directory(folder, config)
            return (folder / RUN).exists()
        return False

    found = dated_directory(config.model, holds)
    return config.but(out=str(found if found.exists() else dated_directory(config.model, _is_left)))


def _is_left(folder: Path) -> bool:
    """Whether nobody needs a directory: it holds hidden files alone, and no command that has just begun holds it."""
    # A lock that is held is an OSError too.
    with suppress(OSError):
        if all(p.name.startswith(".") for p in folder.iterdir()):
            with FileLock(folder / CLAIM_LOCK, timeout=0):
                return True
    return False


@contextmanager
def claimed(config: RunConfig) -> Iterator[RunConfig]:
    """As `placed`; a new directory is made and held at once, lest another command take it; an empty one goes again.

    Raises GhostsearchError where it cannot be made.
    """
    lock = None
    while not config.out:
        found = placed(config)
        folder = Path(found.out)
        try:
            if not (folder / RUN).exists():
                folder.mkdir(exist_ok=True)
                lock = FileLock(folder / CLAIM_LOCK, timeout=0).acquire().lock
            config = found
        except Timeout:
            # Another command was quicker; the next name is free.
            continue
        except OSError as error:
            raise cannot_write(folder, error.strerror or str(error)) from None
    try:
        yield config
    finally:
        if lock:
            # Before it is free, or the directory would go that another command has just taken.
            with suppress(OSError):
                Path(lock.lock_file).unlink()
                Path(config.out).rmdir()
            lock.release()


def check_directory(folder: Path, config: RunConfig, space: SearchSpace | None = None) -> None:
    """Raise GhostsearchError when the directory holds another study, another version's, or foreign files."""
    # Hidden names are locks and what a kill left of a file being written.
    if folder.exists() and not folder.is_dir():
        raise GhostsearchError(f"{folder} is a file, and a study is a directory; choose another --out")
    if not folder.exists() or all(p.name.startswith(".") for p in folder.iterdir()):
        return
    if not (folder / RUN).exists():
        raise GhostsearchError(f"{folder} is not empty and holds no ghostsearch study; choose another --out")
    check_inside(folder)
    before, now = configure({}, folder / RUN).model_dump(), config.model_dump()
    for run in (before, now):
        run["storage"] = run["storage"] and _shown_storage(run["storage"])
    changed = [k for k, v in now.items() if k not in FREE and v != before[k]]
    if changed:
        what = ", ".join(f"{k} {before[k]!r} → {now[k]!r}" for k in changed[:3])
        raise GhostsearchError(
            f"{folder} holds another study ({what}); choose another --out, or the same options to go on"
        )
    if (folder / STUDY).exists():
        known = read_study(folder)["space"]
        if space and known != space.digest:
            raise GhostsearchError(
                f"{folder} holds another study: its search space was {known}, now {space.digest}; choose another --out"
            )


def write_study(folder: Path, content: Mapping[str, Any]) -> None:
    """Write study.json: what stays the same as long as the study lives, its notes and its last command aside."""
    write_text(folder / STUDY, json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=1))


def add_note(folder: Path, note: str) -> None:
    """Add a line to what the report says besides."""
    study = read_study(folder)
    write_study(folder, {**study, "notes": [*study.get("notes", ()), note]})


def note_axes(folder: Path, axes: Sequence[Axis]) -> None:
    """Note the axes of the run that goes on, by which its trials are read until there is an outcome."""
    write_study(folder, {**read_study(folder), "objectives": [axis.model_dump() for axis in axes]})


def note_command(folder: Path) -> None:
    """Note the command that goes on with the study, and when; the one that began it stays as `begun by`."""
    study, now = read_study(folder), environment()
    known = study["environment"]
    if known.get("command", now["command"]) != now["command"]:
        last = {"command": now["command"], "date": now["date"]}
        write_study(folder, {**study, "environment": {"begun by": known["command"], **known, **last}})


def read_study(folder: Path) -> dict[str, Any]:
    """The content of study.json; raises GhostsearchError when it is foreign or from a newer version."""
    data = read_json(folder / STUDY)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise GhostsearchError(f"{folder / STUDY}: not a ghostsearch study")
    if data.get("version") == 1:
        return cast("dict[str, Any]", upgraded(data))
    if data.get("version") != VERSION:
        raise GhostsearchError(
            f"{folder}: study version {data.get('version')!r} is unknown here (known: {VERSION}); upgrade ghostsearch"
        )
    return data


def name_for(study: Mapping[str, Any], config: RunConfig) -> str:
    """The Optuna study's name: the study's own, and with other axes than it began with those axes too."""
    axes = list(config.axes())
    return str(study["name"]) if axes == study.get("axes", axes) else f"{study['name']} [{', '.join(axes)}]"


def environment() -> dict[str, str]:
    """Processor, cores, system, versions, date and command: what a figure needs beside it."""
    return {
        "command": shlex.join(["ghostsearch", *map(_without_password, sys.argv[1:])]) if sys.argv else "",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **versions(),
    }


def _without_password(word: str) -> str:
    """A word of a command as files may keep it: a study is passed on, its database's password is not."""
    option, given, url = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{given}{shown_url(url)}" if "://" in url else word


def add_seconds(folder: Path, seconds: Mapping[str, float]) -> None:
    """Add one call's wall time by stage to seconds.json, which sums over resumed runs."""
    known = read_json(folder / SECONDS) if (folder / SECONDS).exists() else {}
    before = known if isinstance(known, dict) else {}
    both = {k: round(float(before.get(k, 0)) + seconds.get(k, 0), 3) for k in {**before, **seconds}}
    write_text(folder / SECONDS, json.dumps(both, indent=1))


def load_study(folder: Path | str) -> StudyView:
    """A study as it stands in its directory; raises GhostsearchError when that holds none.

    Nothing outside the directory is opened: of a study in a storage of its own, the records that the last run wrote.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file() or not (folder / STUDY).is_file():
        raise GhostsearchError(f"{folder} holds no study; 'ghostsearch search --out {folder}' would make one")
    check_inside(folder)
    config, study = configure({}, folder / RUN), read_study(folder)
    records = read_records(folder) if config.storage else _stored_records(folder, name_for(study, config))
    outcome = upgraded(read_json(folder / OUTCOME)) if (folder / OUTCOME).exists() else {}
    try:
        return _view(folder, config, study, outcome, records)
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise GhostsearchError(f"{folder}: {STUDY} or {OUTCOME} is damaged ({type(error).__name__})") from None


def _view(folder: Path, config: RunConfig, study: Any, outcome: Any, records: Sequence[Record]) -> StudyView:
    view = StudyView(
        directory=str(folder), name=study["name"], config=config.model_dump(mode="json"), anatomy=study["anatomy"],
        objectives=outcome.get("objectives") or study.get("objectives", ()), records=tuple(records),
        front=outcome.get("front", ()), chosen=outcome.get("chosen", ""), finalists=outcome.get("finalists", ()),
        missed=outcome.get("missed", ()),
        vetoed=study.get("vetoed", ()), candidates=outcome.get("candidates", ""), audit=outcome.get("audit", ()),
        layers=outcome.get("layers", ()), int8_layers=outcome.get("int8_layers", ()),
        width_multiple=study.get("width_multiple"), environment=study["environment"],
        notes=(*study.get("notes", ()), *filter(None, [config.flattered(study.get("cut", ()))])),
    )  # fmt: skip

    # Digests name folders, so one that is no simple name would lead out of the directory.
    digests = [*(r.digest for r in (*view.records, *view.finalists)), *view.front, *view.missed]
    if not all(d.isalnum() for d in (*digests, view.chosen or "none")):
        raise GhostsearchError(f"{folder}: names a model that cannot be one of ours")
    return view


def check_inside(folder: Path) -> None:
    """Raise GhostsearchError when something in a study directory is a link to a place outside it."""
    root = folder.resolve()
    for path in folder.rglob("*"):
        # Not `resolve`, which raises for a link that leads to itself; such a one leads nowhere.
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise GhostsearchError(f"{path} leads out of the study's directory; put the file itself there")


def write_records(folder: Path, records: Sequence[Record]) -> None:
    """Write the records of a study whose storage is elsewhere, for the report."""
    write_text(folder / RECORDS, "".join(r.model_dump_json() + "\n" for r in records))


def read_records(folder: Path) -> list[Record]:
    """The records that the last run wrote, none where it did not get so far; raises GhostsearchError if unreadable."""
    if not (folder / RECORDS).exists():
        return []
    try:
        lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
        return [Record.model_validate_json(line) for line in lines]
    except (OSError, ValueError) as error:
        raise GhostsearchError(f"{folder / RECORDS}: cannot be read ({type(error).__name__})") from None


def _stored_records(folder: Path, name: str) -> list[Record]:
    if not (folder / DATABASE).is_file():
        return read_records(folder)
    try:
        with storage_errors(f"{folder / DATABASE}"):
            return records_of(open_storage(None, folder), name)
    except KeyError:
        return []


def _shown_storage(storage: str) -> str:
    return storage if storage.startswith("journal:") else shown_url(storage)


def model_directory(folder: Path) -> Path:
    """The directory itself when it holds a model, else the chosen model's of its study; raises GhostsearchError."""
    if (folder / "architecture.json").is_file():
        return folder
    view = load_study(folder)
    chosen = view.chosen
    if not chosen or not (view.finalists or (folder / "models" / chosen).is_dir()):
        raise GhostsearchError(
            f"{folder} holds a study without a finished model yet; rerun its 'ghostsearch search' to finish"
        )
    return kept_model(folder, chosen)


def study_of(directory: Path) -> Path | None:
    """The study in a directory, or the one that keeps its finished model there; None elsewhere."""
    here = directory.resolve()
    places = [here, here.parent.parent] if here.parent.name == "models" else [here]
    return next((place for place in places if (place / RUN).is_file()), None)


def baseline_directory(folder: Path) -> Path:
    """Where a study keeps its baseline; studies of version 1 called it `plain`."""
    old = folder / "models" / "plain"
    return old if old.exists() else folder / "models" / "baseline"


def kept_directory(folder: Path, digest: str) -> Path:
    """Where a trial's weights are kept."""
    return folder / TRIAL_WEIGHTS / digest


def kept_model(folder: Path, digest: str) -> Path:
    """Where a study keeps a finished model; raises GhostsearchError where it keeps none, as published studies do."""
    kept = folder / "models" / digest
    if not kept.is_dir():
        raise GhostsearchError(
            f"{folder} keeps no weights of {digest} (there is no {kept}); its figures are in the report, and "
            f"'ghostsearch search --config {folder / RUN} --out DIR' makes the models again"
        )
    return kept
