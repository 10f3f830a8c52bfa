"""What a conversion is told: the options of every command that converts."""

from __future__ import annotations

from ghostsearch.options import Computing, Seeded, Texts, option
from ghostsearch.space.choice import WIDTH_MULTIPLE

CONVERTING = "Weights"


class FitOptions(Computing, Seeded):
    """How a converted model gets its weights."""

    calibration_images: int = option(
        512, "Calibration images for the closed-form weights; 0 copies weights instead.", panel=CONVERTING, ge=0
    )
    distill_steps: int = option(0, "Label-free block distillation steps after the closed form.", panel=CONVERTING, ge=0)
    fit_memory: float = option(
        1.0,
        "GiB of the images' values that a fit holds; with less, early layers are fitted to fewer images. The images "
        "themselves take half as much.",
        panel=CONVERTING, gt=0, le=1024,
    )  # fmt: skip


class Conversion(FitOptions):
    """What a model is converted to, where, and on which images its weights are fitted."""

    choice: str | None = option(None, "One choice for every site it fits: 'ghost(ratio=2, kernel=3)'; or 'width(0.5)'.")
    architecture: str | None = option(None, "An architecture.json: one choice per site and group.")
    include: Texts = option(("*",), "Only sites that match this glob; repeatable.")
    exclude: Texts = option((), "Skip sites that match this glob; repeatable.")
    include_first: bool = option(False, "Include the convolution that reads the image.")
    width_multiple: int = option(WIDTH_MULTIPLE, "Round widths to a multiple of this.", ge=1)
    calibrate: str | None = option(
        None, "Data to fit the weights on, in closed form, without labels (digits, folder:PATH, …).", panel=CONVERTING
    )
