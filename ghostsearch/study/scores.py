"""Scores as records keep them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ghostsearch.records import Score, packed
from ghostsearch.study.statistics import standard_error
from ghostsearch.training.tasks.base import Meter, per_image, score_value


def score_of(
    meter: Meter, metric: str, *, split: Literal["validation", "test"], epochs: float, images: int, seed: int,
    classes: Sequence[str] = (),
) -> Score:  # fmt: skip
    """What a meter came to, with the standard error and, where images are right or wrong, which of them were right.

    On the test split also how many of each class were; `classes` are their names.
    """
    values = per_image(meter)
    found = None if values is None else np.asarray(values.cpu().numpy(), dtype=float)
    answers = found is not None and len(found) == images and bool(np.isin(found, (0.0, 1.0)).all())
    counts: dict[int, tuple[int, int]] = getattr(meter, "class_counts", dict)() if split == "test" else {}
    names = {label: classes[label] if label < len(classes) else str(label) for label in counts}
    return Score(
        metric=metric, value=score_value(meter), split=split, epochs=epochs, images=images, seed=seed,
        stderr=standard_error(found) if found is not None and len(found) > 1 else None,
        right=packed(found > 0.5) if answers and found is not None else "",
        by_class={names[label]: count for label, count in counts.items()},
    )  # fmt: skip
