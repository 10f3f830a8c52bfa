"""One or several values per image: squared error and mean absolute error."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ghostsearch.errors import GhostsearchError
from ghostsearch.training.tasks.base import Meter, PerImage, Task, main_output


class Regression(Task):
    """Values per image: mean squared error; the score is the mean absolute error, lower is better."""

    metric = "mean absolute error"
    maximize = False
    kinds: ClassVar[tuple[str, ...]] = ("value",)

    def target(self, images: Any, target: Any) -> Tensor:
        """Values (N, K) as floats; (N,) becomes (N, 1). Raises GhostsearchError for other shapes."""
        values = super().target(images, target)
        if not isinstance(values, Tensor) or values.ndim not in (1, 2):
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise GhostsearchError(f"values have shape (N,) or (N, K), got {found}")
        return values.float().reshape(len(values), -1)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean squared error of outputs (N, K) or (N,)."""
        return F.mse_loss(_columns(output, target), target)

    def meter(self) -> Meter:
        """Mean over images of the absolute error."""
        return AbsoluteError()

    def as_target(self, output: Any) -> Tensor:
        """The values themselves, (N, K)."""
        values = main_output(output)
        return values.reshape(len(values), -1)


class AbsoluteError(PerImage):
    """Mean absolute error, in the target's unit."""

    def values(self, output: Any, target: Tensor) -> Tensor:
        """The absolute error of each image, a mean over its values."""
        return (_columns(output, target) - target).abs().mean(1)


def _columns(output: Any, target: Tensor) -> Tensor:
    values = main_output(output)
    values = values.reshape(len(values), -1)
    if values.shape != target.shape:
        raise GhostsearchError(
            f"the model gives {values.shape[1]} values per image, the data have {target.shape[1]}; "
            f"add --classes {target.shape[1]}"
        )
    return values
