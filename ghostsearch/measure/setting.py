"""How a latency is measured: the options that every command and function that measures takes."""

from __future__ import annotations

from ghostsearch.options import Seeded, Texts, option

MEASURING = "Measuring"
DEVICE_HELP = "Where latency is measured; `ghostsearch devices` lists the devices"
KEEP_FLOAT_HELP = "Layers that stay in float where models run in int8, as globs of module paths; repeatable."


class Setting(Seeded):
    """How models run on a device, and for how long they are timed."""

    threads: int = option(1, "Threads of the runtime.", panel=MEASURING, ge=1, le=1024)
    batch: int = option(1, "Measurement batch size, in images.", panel=MEASURING, ge=1)
    precision: str = option("float32", "float32, or float16/bfloat16 where the device has it.", panel=MEASURING)
    channels_last: bool = option(True, "Memory order of PyTorch's own devices; others choose theirs.", panel=MEASURING)
    keep_float: Texts = option((), KEEP_FLOAT_HELP, cli=False)
    time_limit: float = option(20.0, "Time budget for timing per device, in seconds.", panel=MEASURING, gt=0)
    narrow: float = option(
        0.02, "Width of the interval, as a share of its middle, at which timing stops early.", cli=False
    )
