"""How a study was measured, as names and texts: devices, timing, scores, versions, command and options."""

from __future__ import annotations

from ghostsearch.records import Record, StudyView
from ghostsearch.report.outcome import devices
from ghostsearch.units import setting_text

CIRCUMSTANCES = ("command", "date", "processor", "cores", "system")
"""What a study's environment holds besides versions."""


def measured(view: StudyView) -> list[tuple[str, str]]:
    """Device, threads, batch, timing, scores, versions, seed and command, as name and text."""
    rows: list[tuple[str, str]] = []
    for device in devices(view):
        latency = _a_latency(view, device)
        if latency:
            rows.append((f"device {device}", latency))
    sample = next((r for r in view.records if r.scores), None)
    if sample and (score := sample.score()):
        rows.append(("search score", f"{score.metric} on {score.images} {score.split} images, seed {score.seed}"))
    # The baseline may have had no further epoch, so the longest trained finalist speaks for all.
    final = max((s for r in view.finalists if (s := r.score("test"))), key=lambda s: s.epochs, default=None)
    if final:
        rows.append(
            (
                "final score",
                f"{final.metric} on {final.images} test images, read once, after {final.epochs:g} epochs",
            )
        )
    circumstances = {key: view.environment[key] for key in CIRCUMSTANCES if key in view.environment}
    rows += circumstances.items()
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in view.environment.items() if k not in circumstances)))
    given = {key: value for key, value in view.config.items() if value not in (None, (), [], {})}
    rows.append(("options", "; ".join(f"{key} {setting_text(value)}" for key, value in given.items())))
    return [(name, text) for name, text in rows if text]


def _a_latency(view: StudyView, device: str) -> str:
    """How a device was timed, from the record that was timed last."""
    record: Record | None = next((r for r in reversed((*view.records, *view.finalists)) if r.latency(device)), None)
    latency = record.latency(device) if record else None
    if latency is None:
        return ""
    threads = f"{latency.threads} thread{'s' * (latency.threads != 1)}"
    text = (
        f"batch {latency.batch}, {threads}, {latency.precision}; "
        f"median of {len(latency.times_s)} forwards after warm-up"
    )
    text += ", interleaved with the baseline" if latency.baseline_times_s else ""
    return f"{text}; what it waited for a core is taken off" if latency.waited_s else text
