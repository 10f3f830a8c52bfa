import timm
import torch
from torch import nn

from ghostsearch.measure.cost import measure_cost
from ghostsearch.models.repghost import RepGhostModule, fused, repghostnet

IMAGE = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def trained_like(model):
    """BN statistics and weights as training would leave them: no two alike."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def test_same_names_and_logits_as_the_released_layout():
    theirs, ours = trained_like(timm.create_model("repghostnet_100", pretrained=False)), repghostnet().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        expected, logits = theirs(IMAGE), ours(IMAGE)
    assert expected.std() > 1e-3
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_fused_network_gives_the_same_with_less():
    trained = trained_like(repghostnet())
    deployed = fused(trained)
    with torch.no_grad():
        expected, logits = trained(IMAGE), deployed(IMAGE)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert any(m.fusion_bn for m in trained.modules() if isinstance(m, RepGhostModule)), "the argument is untouched"
    assert measure_cost(deployed, IMAGE).params < measure_cost(trained, IMAGE).params
    branches = [m for m in deployed.modules() if isinstance(m, RepGhostModule)]
    assert len(branches) == 2 * 16
    assert all(isinstance(m.cheap_operation, nn.Conv2d) and not m.fusion_bn for m in branches)


def test_fusing_twice_is_fusing_once():
    module = trained_like(RepGhostModule(4, 6))
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        expected = module(x)
        module.fuse()
        module.fuse()
        assert torch.allclose(module(x), expected, atol=1e-5)
