"""What the paper's tables may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PaperOptions:
    """Where to measure, which trained network to look into and how long to train."""

    device: str = "onnxruntime:cpu"
    threads: int = 1
    time_limit_s: float = 60.0
    """Of timing the small networks."""
    toy_model: str = "ghostsearch:resnet20"
    toy_weights: Path | None = None
    """Trained weights of `toy_model`; without them there is no toy experiment, since random maps show nothing."""
    toy_layer: str = "layer1.0"
    """Whose output is looked at: the first residual block, as in the paper."""
    toy_image: Path | None = None
    """A photograph; default: the one that scikit-learn ships."""
    data: str | None = None
    """Images to train on; without them nothing is trained."""
    train_model: str = "ghostsearch:resnet20"
    train_images: int | None = None
    epochs: float = 3
    train_device: str = "auto"
    seed: int = 0
    command: str = "ghostsearch paper"
    """The command line, for the pages."""
