"""What the paper's tables may be told; the command line builds its options from these fields."""

from __future__ import annotations

from pathlib import Path

from ghostsearch.options import Texts, option
from ghostsearch.training.recipe import Recipe

DATA_HELP = "Images to train on (folder:PATH, …); without them, no training table and no search over GhostNet."


class PaperOptions(Recipe):
    """Where to measure, which trained network to look into and how long to train."""

    device: str = option("onnxruntime:cpu", "Where to measure; `ghostsearch devices` lists them.")
    threads: int = option(1, "Threads of the runtime when measuring.", ge=1)
    time_limit: float = option(60.0, "Time budget per table, in seconds.", gt=0)
    toy_model: str = option("ghostsearch:resnet20", "Network of the toy experiment.")
    toy_weights: Path | None = option(None, "Its trained weights; without them no toy table: random maps show nothing.")
    toy_layer: str = option("layer1.0", "Whose output maps are paired: the first residual block, as in the paper.")
    toy_image: Path | None = option(None, "A photograph; default: the one that scikit-learn ships.")
    data: str | None = option(None, DATA_HELP)
    validation_list: str | None = option(None, "File that lists the selection split's images, one path per line.")
    train_model: str = option("ghostsearch:vgg16", "Network of the training table.")
    train_choices: Texts = option((), "Only these settings, such as 'ghost(ratio=2, kernel=3)'; keep is baseline.")
    train_images: int | None = option(None, "Use only this many training images, stratified.", ge=1)
    test_images: int | None = option(None, "Use only this many test images, stratified.", ge=1)
    train_seeds: int = option(1, "Trainings of each setting, with seeds from --seed on.", ge=1)
    epochs: float = option(3.0, "Epochs of a training; published figures take 200 to 400.", gt=0)
    search_size: int = option(32, "Side of the images that the search over GhostNet trains on.", ge=8)
    search_trials: int = option(16, "Networks that the search over GhostNet trains, four uniform ones included.", ge=5)
    command: str = option("python -m benchmarks.paper", "The command line, for the pages.", cli=False)
