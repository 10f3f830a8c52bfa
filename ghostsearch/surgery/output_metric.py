"""How much an error at each layer's output changes the net's prediction: E[g gᵀ] from sampled labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ghostsearch.fits.sampled_rows import as_maps
from ghostsearch.graph.capture import tensors
from ghostsearch.surgery.sampled_gradients import parameters_frozen

if TYPE_CHECKING:
    from ghostsearch.surgery.baseline_statistics import BaselineStatistics


def output_metrics(statistics: BaselineStatistics) -> Mapping[str, Tensor]:
    """Per layer the (n, n) mean over positions of g gᵀ at the value that it is fitted to.

    g is the gradient of −log p(y), y drawn from the softmax of the baseline's own output (N, classes): the Fisher
    information (Martens & Grosse 2015, section 3). For outputs of another shape, of their product with noise.
    """
    found: dict[str, Tensor] = {}
    count: dict[str, int] = {}
    paths: dict[fx.Node, list[str]] = {}
    for path, place in statistics.places.items():
        paths.setdefault(place.out, []).append(path)
    generator = torch.Generator().manual_seed(statistics.settings.seed)
    left = statistics.settings.metric_images
    with parameters_frozen(statistics.teacher):
        for batch in statistics.batches:
            if left <= 0:
                break
            left -= len(batch)
            runner = _Keeping(statistics.teacher, statistics.graph, paths)
            with torch.enable_grad():
                output = runner.run(batch.clone().requires_grad_(batch.is_floating_point()))
                losses = [sampled_loss(t, generator) for t in tensors(output) if t.requires_grad]
                if losses:
                    torch.stack(losses).sum().backward()
            for node, value in runner.kept.items():
                if value.grad is None:
                    continue
                for path in paths[node]:
                    grad = as_maps(value.grad, statistics.teacher.get_submodule(path))
                    g = grad.transpose(0, 1).flatten(1)
                    found[path] = found.get(path, 0) + g @ g.T
                    count[path] = count.get(path, 0) + g.shape[1]
    return {path: total / count[path] for path, total in found.items()}


def sampled_loss(output: Tensor, generator: torch.Generator) -> Tensor:
    """−log p of labels drawn from an output (N, classes), summed; of other outputs the product with normal noise."""
    if output.dim() != 2:
        noise = torch.randn(output.shape, generator=generator).to(output)
        return (output * noise).sum()
    uniform = torch.rand(output.shape, generator=generator).to(output).clamp(1e-9, 1 - 1e-7)
    # The largest of logits plus Gumbel noise is a draw from the softmax, made where the output is.
    drawn = (output.detach() - (-uniform.log()).log()).argmax(1)
    return F.cross_entropy(output, drawn, reduction="sum")


class _Keeping(fx.Interpreter):
    """Keeps the values of some nodes together with their gradients."""

    def __init__(self, model: Any, graph: fx.Graph, wanted: Mapping[fx.Node, Any]) -> None:
        super().__init__(model, graph=graph)
        self.wanted, self.kept = wanted, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted and isinstance(value, Tensor) and value.is_floating_point():
            # Behind the embedding of whole numbers nothing asks for a gradient yet.
            value.requires_grad_().retain_grad()
            self.kept[n] = value
        return value
