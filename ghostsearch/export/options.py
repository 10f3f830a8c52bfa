"""What is written of a model, and how: the options of every command that exports."""

from __future__ import annotations

from ghostsearch.data.options import SplitOptions
from ghostsearch.measure.setting import KEEP_FLOAT_HELP
from ghostsearch.options import Texts, option


class Exporting(SplitOptions):
    """The file's format and what goes into it."""

    to: str = option("onnx", "onnx, torch-export, executorch or openvino.", flags=("--format",))
    out: str | None = option(None, "File to write; default: a descriptive name inside the directory.")
    with_softmax: bool = option(
        False, "End the network with a softmax over the classes, so that it gives probabilities.",
        flags=("--with-softmax",),
    )  # fmt: skip
    int8: bool = option(
        False,
        "Quantize to int8, for onnx and executorch; needs --calibrate, but for a model of a study.",
        flags=("--int8",),
    )
    calibrate: str | None = option(
        None,
        "Data to calibrate int8 on: digits, folder:PATH, …; its test split scores it. Default for a study's model: as "
        "the study scored it.",
    )
    calibration_images: int = option(128, "Calibration images for --int8.", ge=1)
    task: str | None = option(None, "Task that scores --int8; default: what data and output suggest.")
    keep_float: Texts = option((), KEEP_FLOAT_HELP)
