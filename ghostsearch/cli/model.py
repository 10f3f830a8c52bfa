"""Commands about one model: inspect, convert, measure, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostsearch.cli import options as o
from ghostsearch.cli.terminal import progress_bar, say, say_json, show_table, typed
from ghostsearch.errors import GhostsearchError
from ghostsearch.export.options import Exporting
from ghostsearch.files import dated_directory
from ghostsearch.measure.setting import DEVICE_HELP, Setting
from ghostsearch.models.options import ModelOptions
from ghostsearch.space.choice_text import parse_choice
from ghostsearch.space.preset import default_space
from ghostsearch.surgery.options import Conversion
from ghostsearch.units import counted, milliseconds, score_text, with_prefix
from ghostsearch.usercode import leave_for

if TYPE_CHECKING:
    from ghostsearch.models.load import LoadedModel

SETTING, LOADING, CONVERSION, EXPORTING = Setting(), ModelOptions(), Conversion(), Exporting()


def inspect_model(
    model: o.Model,
    loading: ModelOptions = LOADING,
    space: o.Space = "",
    gallery: Annotated[
        str | None,
        typer.Option(help="Draw the most similar feature maps of this image ('default': one that is shipped)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the gallery. Default: gallery.")] = None,
    shown: o.Printed = o.PRINTED,
) -> None:
    """Show which convolutions may be replaced, by what, and why the others may not.

    Example: [bold]ghostsearch inspect torchvision:resnet18[/bold]
    """
    from ghostsearch.surgery.saved import open_model

    if out and gallery is None:
        raise GhostsearchError("--out is for --gallery; add --gallery default, or leave --out out")
    loaded = open_model(model, loading)
    if gallery is not None:
        _gallery(loaded, gallery, out or Path("gallery"), as_json=shown.as_json)
        return
    from ghostsearch.report.inspection import inspection

    found = inspection(loaded, space or default_space(model))
    if shown.as_json:
        say_json(found)
        return
    _show_sites(model, found["sites"])
    if found["groups"]:
        groups = [(g["name"], g["channels"], len(g["members"]), g["fixed"] or "may change") for g in found["groups"]]
        show_table("groups of channels that change width together", ["group", "channels", "layers", "width"], groups)
    if found["width_note"]:
        say(found["width_note"])
    if found["skipped"]:
        show_table("not replaceable", ["module", "reason"], [(s["module"], s["reason"]) for s in found["skipped"]])
    kinds = [(k["kind"], k["layers"], f"{k['params_share']:.1%}", f"{k['macs_share']:.1%}") for k in found["shares"]]
    show_table("by kind of layer", ["kind", "layers", "params", "MACs"], kinds)
    say(f"{with_prefix(found['params'])} params, {with_prefix(found['macs'], 'MACs')} at {loaded.input}")
    _show_input(loaded)
    if not found["sites"]:
        raise GhostsearchError(f"{model} has no convolution that can be replaced; the table above says why for each")
    weights = f" --weights {typed(loading.weights)}" if loading.weights else ""
    say(f"next: ghostsearch convert {typed(model)}{weights} --choice 'ghost(ratio=2, kernel=3)' --out DIR")


def _show_input(loaded: LoadedModel) -> None:
    """Print preprocessing, weights and class names, which running the model needs."""
    spec = loaded.input
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    crop = f"shorter side to {spec.shorter_side}, centre crop to {spec}" if isinstance(spec.size, int) else f"to {spec}"
    say(f"input: {spec.channels} channels, {crop}, {spec.interpolation}; mean {mean}; std {std}")
    if loaded.weights:
        names = loaded.categories
        shown = f"; {len(names)} classes: {', '.join(names[:3])}, …" if names else ""
        say(f"weights: {loaded.weights}{shown}")


def _show_sites(model: str, sites: list[dict[str, Any]]) -> None:
    """A row per site, a column per choice with its theoretical speed-up; the choices' names in full below."""
    names = {c["choice"]: parse_choice(c["choice"]).look.short for s in sites for c in s["choices"][1:]}
    rows = []
    for site in sites:
        speed = {c["choice"]: f"{c['speedup']:.2f}×" if c["speedup"] else "free" for c in site["choices"][1:]}
        kind = f"{site['kind'].removeprefix('Conv2d ')} {site['in_channels']}→{site['out_channels']}"
        rows.append((site["site"], kind, with_prefix(site["macs"]), *(speed.get(choice, "") for choice in names)))
    legend = "theoretical speed-up of " + ", ".join(f"{short}: {choice}" for choice, short in names.items())
    show_table(f"{model}: {len(rows)} sites", ["site", "kind", "MACs", *names.values()], rows, legend if names else "")


def _gallery(loaded: LoadedModel, image: str, out: Path, *, as_json: bool) -> None:
    from ghostsearch.report.gallery import write_gallery

    with progress_bar(as_json) as progress:
        paths = write_gallery(loaded, None if image == "default" else Path(image), out, progress=progress)
    if as_json:
        say_json({"page": str(paths[0]), "picture": str(paths[1])})
        return
    say("wrote " + ", ".join(str(p) for p in paths))
    say(f"next: open {paths[0]} in a browser")


def convert_model(
    model: o.Model,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory to write: architecture.json, weights.safetensors. Default: named after model and date."
        ),
    ] = None,
    wanted: Conversion = CONVERSION,
    loading: ModelOptions = LOADING,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Convert a network: swap convolutions, inherit the trained weights, write a model that loads again.

    Example: [bold]ghostsearch convert torchvision:resnet18 --choice 'ghost(ratio=2, kernel=3)' --out converted[/bold]
    """
    from ghostsearch.export.convert_directory import convert_and_save
    from ghostsearch.surgery.saved import open_model

    loaded = open_model(model, loading, seed=wanted.seed)
    out = out or dated_directory(model, what="-converted")
    with progress_bar(shown.silent) as progress:
        table = convert_and_save(loaded, out, wanted, progress=progress)
    if shown.as_json:
        say_json(table)
        return
    rows = [
        (row["what"], with_prefix(row["before"]), with_prefix(row["after"]), f"{row['after'] / row['before']:.1%}")
        for row in table["rows"]
    ]
    show_table(f"{model}: {table['changed']} layers changed", ["", "before", "after", "share"], rows)
    say(f"weights {table['weights']}; wrote {out}")
    made = typed(out) + leave_for(model)
    say(f"next: ghostsearch measure {made}   or   ghostsearch finetune {made} --data …")


def measure_model(
    model: o.Subject,
    device: Annotated[
        list[str] | None,
        typer.Option(help=f"{DEVICE_HELP}; repeatable.", autocompletion=o.complete_device),
    ] = None,
    setting: Setting = SETTING,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say operator by operator where fvcore and thop differ.")
    ] = False,
    loading: ModelOptions = LOADING,
    allow_code: o.AllowCode = False,
    shown: o.Output = o.OUTPUT,
) -> None:
    """Measure params, MACs (exact, fvcore, thop), bytes, and latency on real devices.

    A converted directory is timed interleaved with the baseline it came from. MODEL may be any .onnx file too.

    Example: [bold]ghostsearch measure torchvision:resnet18 --device onnxruntime:cpu --device torch:cpu[/bold]
    """
    from ghostsearch.report.inspection import measurement
    from ghostsearch.study.subject import open_subject

    loaded = open_subject(model, loading, seed=setting.seed, allow_code=allow_code)
    devices = tuple(device or (o.DEVICE,))
    with progress_bar(shown.silent) as progress:
        found = measurement(loaded, devices, setting, allow_code=allow_code, progress=progress)
    if shown.as_json:
        say_json(found)
        return
    macs = found["macs"]
    cost = [
        ("params", with_prefix(found["params"])),
        ("size", with_prefix(found["size_bytes"], "B")),
        ("peak activations", with_prefix(found["peak_memory_bytes"], "B")),
        *((f"MACs, {k}", with_prefix(v)) for k, v in macs.items()),
    ]
    show_table(model, ["cost", ""], cost, note=found["macs_reason"])
    if explain:
        rows = [(d["operator"], *(with_prefix(d[k]) for k in macs), d["reason"]) for d in found["differences"]]
        show_table("where the counters differ", ["operator", *macs, "reason"], rows)
    _show_latency(found["latency"], setting)
    then = f"check {typed(model)} --device {devices[0]} --max-latency 12ms"
    if Path(model).is_dir():
        then = f"export {typed(model)}{' --allow-code' * allow_code} --format onnx"
    elif not Path(model).is_file():
        then = f"inspect {model}"
    say(f"next: ghostsearch {then}")


def _show_latency(latencies: list[dict[str, Any]], setting: Setting) -> None:
    """A row per device: median, quartiles, ratio to the baseline, and what to know of the measurement."""
    rows = []
    for x in latencies:
        low, high = x["quartiles_s"]
        ratio = "–" if x["ratio"] is None else f"{x['ratio']:.3f}"
        remark = f"stopped: {x['stopped']}" + "; noisy, its spread exceeds a tenth of the median" * x["noisy"]
        if x["waited_s"] > 0.1 * sum(x["times_s"]):
            remark += f"; {x['waited_s']:.1f} s of CPU wait time subtracted"
        spread = f"{milliseconds(low)} – {milliseconds(high)}"
        rows.append((x["device"], milliseconds(x["median_s"]), spread, ratio, x["runs"], remark))
    threads = counted(setting.threads, "thread")
    title = f"latency, batch {setting.batch}, {threads}, {', '.join(sorted({x['precision'] for x in latencies}))}"
    show_table(title, ["device", "median", "quartiles", "÷ baseline", "runs", ""], rows)


def export_model(
    directory: Annotated[
        Path,
        typer.Argument(
            help="A directory that convert, search or finetune wrote, or a study.",
            show_default=False,
        ),
    ],
    wanted: Exporting = EXPORTING,
    allow_code: o.AllowCode = False,
    shown: o.Printed = o.PRINTED,
) -> None:
    """Write a model for a runtime, and check the file by running it against the module.

    Example: [bold]ghostsearch export results/mine/models/1a2b3c4d5e --format onnx[/bold]
    """
    from ghostsearch.export.export_directory import export_directory

    result = export_directory(directory, wanted, allow_code=allow_code)
    if shown.as_json:
        say_json(result)
        return
    if wanted.int8:
        _show_int8(result)
        return
    rows = [
        ("size", with_prefix(result["size_bytes"], "B")),
        ("batch", result["batch"]),
        ("largest difference from the module", f"{result['max_difference']:.2g} of {result['largest_output']:.2g}"),
    ]
    show_table(result["path"], ["", ""], rows)
    say(f"wrote {result['card']}")
    made = typed(directory) + " --allow-code" * allow_code
    calibrated = "" if result["study"] else " --calibrate …"
    say(f"next: ghostsearch export {made} --int8{calibrated}   makes a file a quarter of the size")


def _show_int8(found: dict[str, Any]) -> None:
    """Size, latency and score of the quantized file beside the float one."""
    score, noted = found["metric"], f"latency on {found['runtime']}, one thread, batch 1, interleaved"
    low, high = found["ratio_interval"] or (found["latency_ratio"],) * 2
    sizes = found["float_size_bytes"], found["size_bytes"]
    rows = [
        ("size", *(with_prefix(x, "B") for x in sizes), f"{sizes[1] / sizes[0]:.2f}"),
        (
            "latency",
            milliseconds(found["float_latency_s"]),
            milliseconds(found["latency_s"]),
            f"{low:.2f} – {high:.2f}",
        ),
    ]
    if score:
        rows.append((score, score_text(found["float_score"], score), score_text(found["score"], score), ""))
    bits = "" if found["weight_bits"] == 8 else f"; {found['weight_bits']}-bit weights, as this processor needs"
    show_table(found["path"], ["", "float32", "int8", "ratio"], rows, noted + bits)
    say(f"still in float: {', '.join(found['float_nodes']) or 'nothing'}")
    if found["noisiest"]:
        noisy = ", ".join(f"{x['layer']} {x['snr_db']:.0f} dB" for x in found["noisiest"])
        say(f"noisiest layers, each by itself: {noisy}")
    if (kept := found["kept_float"]) is not None:
        scored = f", {score} {score_text(kept['score'], score)}" if score else ""
        say(f"--keep-float {kept['layer']}: {kept['latency_ratio']:.2f} of the int8 latency{scored}")
    repair = "--keep-float or " * bool(found["noisiest"])
    say(f"next: the file runs in {found['runtime']}; if it lost too much, use {repair}ghostsearch finetune")
