"""The devices of a run: which kind of file they run, and whether they are there."""

from __future__ import annotations

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.executorch_xnnpack import ExecutorchXnnpackInt8
from ghostsearch.measure.devices.table import GRAPH_DEVICES, get_device
from ghostsearch.options import without_effect
from ghostsearch.study.config import RunConfig
from ghostsearch.training.evaluate import torch_device
from ghostsearch.training.tasks.table import load_task


def runs_graphs(config: RunConfig) -> bool:
    """Whether every device of a run takes an ONNX graph as it is, in float and in int8 alike."""
    return all(device.removesuffix(":int8") in GRAPH_DEVICES for device in config.device)


def runs_programs(config: RunConfig) -> bool:
    """Whether ExecuTorch alone runs a run's models in int8: then its program is the file that finalists become."""
    int8 = [d for d in config.device if d.endswith(":int8")]
    return bool(int8) and set(int8) == {ExecutorchXnnpackInt8.name}


def check_names(config: RunConfig) -> None:
    """Raise GhostsearchError, before anything is read, for devices or a task that are not there."""
    torch_device(config.compute_device)
    if (config.int8_baseline or config.scores_int8) and not config.calibration_images:
        raise GhostsearchError("int8 sets its scales on images; give --calibration-images above 0")
    if config.int8_baseline and not runs_graphs(config):
        raise GhostsearchError(f"--int8-baseline is measured on {' or '.join(GRAPH_DEVICES)}; name no other --device")
    int8 = [d for d in config.device if d.endswith(":int8")]
    without = next((d for d in int8 if d.removesuffix(":int8") not in GRAPH_DEVICES), "")
    if config.keep_float and without:
        raise GhostsearchError(f"--keep-float has no say on {without}; leave one of the two out")
    if config.keep_float and not (int8 or config.int8_baseline):
        raise without_effect("keep_float", "a --device in int8, or --int8-baseline")
    if config.distill_steps and not config.calibration_images:
        raise GhostsearchError("--distill-steps needs images; give --calibration-images above 0")
    if runs_programs(config):
        # The finalists are scored in this process, wherever they are timed.
        ExecutorchXnnpackInt8().check()
    load_task(config.task)
    # Under Ray a device may be that of another node.
    for device in config.device if config.counts_latency() and config.engine != "ray" else ():
        get_device(device)
