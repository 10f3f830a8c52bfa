"""Which images a command reads: the options that every command with images takes."""

from __future__ import annotations

from ghostsearch.options import Options, option

INPUT = "Input"
FORMS = (
    "digits, folder:PATH, csv:FILE, arrays:FILE.npz, voc:FOLDER, coco:FILE.json, torchvision:NAME@ROOT, "
    "huggingface:FOLDER or package.module:function"
)
"""What names a data set."""


class SplitOptions(Options):
    """How images are divided."""

    validation_list: str | None = option(
        None, "File that lists the images of the selection split, one path per line.", panel=INPUT
    )


class ImageOptions(SplitOptions):
    """Images, their splits and what their targets mean."""

    data: str = option(
        "digits",
        f"{FORMS}.",
        panel=INPUT,
    )
    train_images: int | None = option(None, "Use only this many training images, stratified.", panel=INPUT, ge=1)
    task: str = option(
        "classification", "classification, multilabel, segmentation, detection, regression, restoration, signals, or "
        "package.module:object with a loss and a score.",
        panel=INPUT,
    )  # fmt: skip
