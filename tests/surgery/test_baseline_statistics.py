"""What is computed from a change on is what the whole model gives, and leaves the baseline's values as they were."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ghostsearch.graph.capture import copied
from ghostsearch.surgery.baseline_statistics import BaselineStatistics


class Preactivated(nn.Module):
    """Sums and activations whose inputs others read too, an Identity in between, and a sum that broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.inner, self.same, self.relu = nn.BatchNorm2d(8), nn.Identity(), nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(self.relu(self.norm(x))) + x
        z = self.relu(self.same(y)) + y
        z = z + z.mean((2, 3), keepdim=True)
        z = self.relu(self.inner(self.second(z))) + self.relu(y)
        return self.head(z.mean((2, 3)))


NETWORKS = {
    "preactivated": Preactivated,
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "densenet": lambda: torchvision.models.DenseNet(8, (3, 3), 16),
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_from_a_change_on_are_the_whole_models(name: str) -> None:
    torch.manual_seed(0)
    baseline = NETWORKS[name]().eval()
    for module in baseline.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    batches = [torch.randn(2, 3, 48, 48), torch.randn(1, 3, 48, 48)]
    found = BaselineStatistics(baseline, batches)
    assert found.traced
    layers = sorted((p for p in found.places if p in found.order), key=found.order.__getitem__)
    for path in layers[:: max(1, len(layers) // 4)]:
        found.advance([path])
        changed = copied(baseline)
        with torch.no_grad():
            changed.get_submodule(path).weight.mul_(1.1)
        before = {key: tensor.clone() for key, tensor in changed.state_dict().items()}
        # The second and third time tell whether the first wrote into what the baseline's pass holds.
        for model in (changed, baseline, changed):
            with torch.no_grad():
                wanted = [copied(model)(x) for x in batches]
            for got, want in zip(found.output(model), wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
        assert all(torch.equal(before[key], tensor) for key, tensor in changed.state_dict().items())
