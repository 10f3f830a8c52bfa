"""How a model by name is loaded: the options that every command with a MODEL takes."""

from __future__ import annotations

from ghostsearch.models.input import ImageSize
from ghostsearch.options import Options, option

INPUT = "Input"


class ModelOptions(Options):
    """Weights, classes and input size of a model by name."""

    weights: str | None = option(
        None, "Trained weights: a .safetensors or .pt file, or published ones: default, IMAGENET1K_V1, …", panel=INPUT
    )
    classes: int | None = option(None, "Adapt the classifier to this many classes.", panel=INPUT, ge=1)
    size: ImageSize | None = option(
        None, "Image side in pixels, or HEIGHTxWIDTH; default: what the model was made for.", panel=INPUT
    )
