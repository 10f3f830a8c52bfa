"""What the paper's tables may be told; the command line builds its options from these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
DATA_HELP = "Images to train on (folder:PATH, …); without them, no training table and no search over GhostNet."


def _option(default: Any, text: str, **limits: Any) -> Any:
    return Field(default, description=text, **limits)


class PaperOptions(BaseModel):
    """Where to measure, which trained network to look into and how long to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = _option("onnxruntime:cpu", "Where to measure; `ghostsearch devices` lists them.")
    threads: int = _option(1, "Threads of the runtime when measuring.", ge=1)
    time_limit: float = _option(60.0, "Time budget per table, in seconds.", gt=0)
    toy_model: str = _option("ghostsearch:resnet20", "Network of the toy experiment.")
    toy_weights: Path | None = _option(
        None, "Its trained weights; without them no toy table: random maps show nothing."
    )
    toy_layer: str = _option("layer1.0", "Whose output maps are paired: the first residual block, as in the paper.")
    toy_image: Path | None = _option(None, "A photograph; default: the one that scikit-learn ships.")
    data: str | None = _option(None, DATA_HELP)
    validation_list: Path | None = _option(None, "File that lists the selection split's images, one path per line.")
    train_model: str = _option("ghostsearch:vgg16", "Network of the training table.")
    train_choices: tuple[str, ...] = _option(
        (), "Only these settings, such as 'ghost(ratio=2, kernel=3)'; keep is baseline."
    )
    train_images: int | None = _option(None, "Use only this many training images, stratified.", ge=1)
    test_images: int | None = _option(None, "Use only this many test images, stratified.", ge=1)
    train_seeds: int = _option(1, "Trainings of each setting, with seeds from --seed on.", ge=1)
    epochs: float = _option(3.0, "Epochs of a training; published figures take 200 to 400.", gt=0)
    batch_size: int = _option(64, "Training batch size, in images.", ge=1)
    lr: float | None = _option(None, "Highest learning rate; default: the recipe's.", gt=0)
    train_precision: Precision | None = _option(None, "32-true or bf16-mixed; default: mixed on a GPU only.")
    search_size: int = _option(32, "Side of the images that the search over GhostNet trains on.", ge=8)
    search_trials: int = _option(16, "Networks that the search over GhostNet trains, four uniform ones included.", ge=5)
    compute_device: str = _option("auto", "Where to train: cpu, cuda, cuda:1 or auto.")
    seed: int = _option(0, "Seed of everything random.", ge=0)
    command: str = Field(
        "python -m benchmarks.paper", description="The command line, for the pages.", json_schema_extra={"cli": False}
    )
