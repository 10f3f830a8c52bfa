"""The first daily job in one call: convert a network, inherit its weights, save it, report before and after."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from ghostsearch.data.load import load_calibration
from ghostsearch.errors import GhostsearchError
from ghostsearch.files import check_writable
from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.load import LoadedModel, example_input
from ghostsearch.shown import Progress
from ghostsearch.space.architecture import Anatomy, Architecture
from ghostsearch.space.choice import Width
from ghostsearch.space.choice_text import parse_choice
from ghostsearch.space.preset import GroupRule, Preset, SiteRule
from ghostsearch.study.directory import study_of
from ghostsearch.study.watch import ending, interruptible
from ghostsearch.surgery.convert import convert, fit_settings
from ghostsearch.surgery.fit_model import FitReport
from ghostsearch.surgery.options import Conversion
from ghostsearch.surgery.saved import ARCHITECTURE_FILE, WEIGHTS_FILE, load, save
from ghostsearch.surgery.sites import find_sites, require_sites
from ghostsearch.surgery.stopped_fit import StoppedFit
from ghostsearch.surgery.verify import ConversionWarning, output_error, outputs_of
from ghostsearch.training.evaluate import torch_device
from ghostsearch.training.finetune import CHECKPOINTS
from ghostsearch.units import counted
from ghostsearch.yaml_files import RUN

COPIED = "copied (add --calibrate DATA to fit them in closed form)"


def requested_architecture(anatomy: Anatomy, wanted: Conversion) -> Architecture:
    """The architecture that one choice for every place, or a file, asks for.

    A choice goes to every site (a width to every group) that it fits and that the globs let through. Raises
    GhostsearchError unless exactly one of the two is given, for globs beside a file, for unknown sites, and when
    nothing would change.
    """
    choice, file = wanted.choice, wanted.architecture
    if (choice is None) == (file is None):
        raise GhostsearchError("give exactly one of --choice 'ghost(ratio=2, kernel=3)' and --architecture FILE")
    if file is not None:
        for name in sorted(wanted.model_fields_set & {"include", "exclude"}):
            raise GhostsearchError(f"--{name} is for --choice; --architecture names its sites, so leave --{name} out")
        architecture = Architecture.read(Path(file))
        require_sites(anatomy, architecture.sites)
        return architecture
    text = str(parse_choice(str(choice)))
    wide = isinstance(parse_choice(text), Width)
    rules = Preset(
        groups=(GroupRule(widths=(text,)),) if wide else (), sites=() if wide else (SiteRule(choices=(text,)),),
        include=wanted.include, exclude=wanted.exclude, width_multiple=wanted.width_multiple,
    )  # fmt: skip
    return rules.resolve(anatomy).uniform(text)


def convert_and_save(
    loaded: LoadedModel, out: Path, wanted: Conversion, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Convert a loaded model, write it to a directory and return the before/after table as plain data.

    Ctrl-C ends a fit after the layer at work, a distillation after the step; the same call goes on from there. Twice,
    it stops at once. Raises GhostsearchError for bad choices, globs or data; the directory is written only when all
    went well.
    """
    fitted = bool(wanted.calibrate and wanted.calibration_images)
    if not fitted:
        _refuse_fit_options(wanted)
    torch_device(wanted.compute_device)
    check_writable(out)
    _check_untaken(out)
    example = example_input(loaded.input)
    anatomy = find_sites(loaded.module, example, include_first=wanted.include_first)
    architecture, batches = requested_architecture(anatomy, wanted), None
    images = 0
    if wanted.calibrate and fitted:
        found = load_calibration(
            wanted.calibrate, input=loaded.input, images=wanted.calibration_images, seed=wanted.seed, progress=progress
        )
        batches, images = found.batches, found.images
    reports: list[FitReport] = []
    with warnings.catch_warnings(record=True) as said, interruptible() as interrupted:
        warnings.simplefilter("always", ConversionWarning)
        left = out.with_name(f".{out.name}.fit")
        stopped = StoppedFit(left, interrupted, more=wanted.distill_steps > 0) if fitted else None
        converted = convert(
            loaded.module, architecture, example=example, anatomy=anatomy, calibration=batches,
            width_multiple=wanted.width_multiple, distill_steps=wanted.distill_steps, seed=wanted.seed,
            settings=fit_settings(wanted), progress=ending(progress, interrupted),
            on_fit=reports.append, stopped=stopped,
        )  # fmt: skip
    remarks = [str(w.message) for w in said if issubclass(w.category, ConversionWarning)]
    remarks += [f"{path} is not fitted: {why}" for report in reports for path, why in report.not_fitted.items()]
    save(converted, out, source=loaded, architecture=architecture, width_multiple=wanted.width_multiple)
    _same_again(out, loaded, converted, example)
    if stopped:
        stopped.forget()
    before, after = measure_cost(loaded.module, example), measure_cost(converted, example)
    names = {"params": "params", "macs": "MACs", "size_bytes": "bytes"}
    return {
        "model": loaded.spec,
        "architecture": architecture.to_dict(),
        "digest": architecture.digest,
        "changed": len(architecture.sites) + len(architecture.groups),
        "weights": "; ".join([_how(wanted, images) if fitted else COPIED, *remarks]),
        "out": str(out),
        "rows": [{"what": text, "before": getattr(before, k), "after": getattr(after, k)} for k, text in names.items()],
    }


def _refuse_fit_options(wanted: Conversion) -> None:
    """Raise GhostsearchError for options that say how weights are fitted, where none are."""
    for name in ("calibration_images", "distill_steps", "fit_memory"):
        # No images and no steps are what is done.
        if name in wanted.model_fields_set and getattr(wanted, name):
            option = f"--{name.replace('_', '-')}"
            raise GhostsearchError(f"{option} is for weights fitted to images; add --calibrate DATA, or leave it out")


def _check_untaken(out: Path) -> None:
    """Raise GhostsearchError where a directory holds a study, a model of one or a trained one, not a conversion."""
    trained = (out / ARCHITECTURE_FILE).exists() and (study_of(out) or (out / CHECKPOINTS).exists())
    if trained or (out / RUN).exists():
        raise GhostsearchError(f"{out} holds a study or a trained model; choose another --out, so that it stays")


def _same_again(out: Path, loaded: LoadedModel, converted: nn.Module, example: Any) -> None:
    """Raise GhostsearchError, the directory taken away, unless it gives what the model in memory gives."""
    if output_error(load(out, model=loaded.module, example=example), example, outputs_of(converted, example)) > 0:
        for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
            (out / name).unlink()
        raise GhostsearchError(
            f"{out}: the saved model computes other outputs than the converted one; nothing was kept"
        )


def _how(wanted: Conversion, images: int) -> str:
    fitted = f"fitted in closed form on {counted(images, 'image')} of {wanted.calibrate}"
    more = f", then {wanted.distill_steps} label-free distillation steps per block"
    return fitted + more if wanted.distill_steps else fitted
