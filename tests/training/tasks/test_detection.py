"""The detection task: losses and score of torchvision's detectors, their dense values, and learning to find squares."""

import pytest
import torch

from ghostsearch.data.load import load_data
from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.graph.detector import class_count, is_detector, own_side, set_side, watched
from ghostsearch.models.input import InputSpec
from ghostsearch.space.architecture import Architecture
from ghostsearch.surgery.convert import convert
from ghostsearch.training.checks import check_run
from ghostsearch.training.evaluate import evaluate
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe
from ghostsearch.training.tasks.base import score_value
from ghostsearch.training.tasks.detection import Detection
from ghostsearch.training.tasks.table import task_for
from tests.pictures import DETECTORS, SIDE, ssd, write_voc

pytestmark = pytest.mark.filterwarnings("ignore::ghostsearch.errors.GhostsearchWarning")
PLAIN = InputSpec(SIDE, 3, (0.0,) * 3, (1.0,) * 3)
BOX, TASK = torch.tensor([[4.0, 6.0, 40.0, 44.0]]), Detection()
TARGET = {"boxes": BOX, "labels": torch.tensor([2])}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return load_data(f"voc:{write_voc(tmp_path_factory.mktemp('squares') / 'voc')}", input=PLAIN, batch=8, workers=0)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_family_has_losses_boxes_and_comparable_values(name):
    torch.manual_seed(0)
    net, images = DETECTORS[name]().eval(), torch.rand(2, 3, SIDE, SIDE)
    assert is_detector(net)
    assert class_count(net) == 3
    assert own_side(net) == SIDE
    found = TASK.forward(net, images, None)
    assert [set(f) for f in found["found"]] == [{"boxes", "labels", "scores"}] * 2
    assert found["out"].shape[0] == 2
    before = found["out"]
    with torch.no_grad():
        next(net.backbone.parameters()).mul_(1.3)
    changed = TASK.forward(net, images, None)
    assert changed["out"].shape == before.shape
    with torch.no_grad():
        assert float(TASK.distillation_loss(changed, found)) > 0
        assert float(TASK.distillation_loss(found, found)) == 0
    output = TASK.forward(net.train(), images, [TARGET, {"boxes": BOX[:0], "labels": TARGET["labels"][:0]}])
    loss = TASK.loss(output, None)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(sum(x.item() for x in output["losses"].values()))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_size_is_what_a_detector_sees(name):
    net = DETECTORS[name]()
    set_side(net, (32, 96))
    sizes = []
    net.backbone.register_forward_hook(lambda _m, args, _y: sizes.append(tuple(args[0].shape[-2:])))
    net.eval()(torch.rand(1, 3, 32, 96))
    assert sizes == [(32, 96)]


def test_values_of_fixed_regions_see_the_second_stage():
    net = DETECTORS["faster_rcnn"]().eval()

    def values():
        with torch.no_grad(), watched(net) as dense:
            net(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
        return dense.flat()

    before = values()
    with torch.no_grad():
        net.roi_heads.box_predictor.cls_score.weight.add_(0.1)
    assert not torch.equal(before, values())


def test_the_score_is_cocos_and_crowds_do_not_count():
    def score(boxes, labels, **more):
        meter = TASK.meter()
        found = {"boxes": boxes, "labels": labels, "scores": torch.full((len(labels),), 0.9)}
        meter.update({"found": [found]}, [TARGET | more])
        return score_value(meter)

    assert score(BOX, TARGET["labels"]) == 1
    assert score(BOX, torch.tensor([1])) == 0
    half = BOX.clone()
    half[0, 3] = 25  # IoU 0.5: found at one of the ten thresholds
    assert score(half, TARGET["labels"]) == pytest.approx(0.1)
    both = {"boxes": torch.cat([BOX, BOX + 15]), "labels": torch.tensor([2, 2]), "iscrowd": torch.tensor([0, 1])}
    meter = TASK.meter()
    meter.update({"found": [{"boxes": BOX, "labels": TARGET["labels"], "scores": torch.ones(1)}]}, [both])
    assert score_value(meter) == 1
    with pytest.raises(GhostsearchError, match="mAP of no boxes"):
        TASK.meter().compute()


def test_a_score_of_crowds_alone_is_an_error():
    meter = TASK.meter()
    crowd = {"boxes": BOX, "labels": torch.tensor([1]), "iscrowd": torch.tensor([1])}
    found = {"boxes": BOX, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    meter.update({"found": [found]}, [crowd])
    with pytest.raises(GhostsearchError, match="mAP of no boxes"):
        meter.compute()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (TARGET, "expects a list of 1 targets"), ([{"boxes": BOX}], "`boxes` .* and `labels`"),
        ([TARGET | {"labels": torch.tensor([0])}], "labels from 1"),
        ([TARGET | {"labels": torch.tensor([1, 2])}], "1 boxes"),
        ([TARGET | {"boxes": BOX.flip(1)}], "left upper corner"), (None, "have no labels"),
    ],
)  # fmt: skip
def test_a_bad_target_gets_one_line(target, told):
    with pytest.raises(GhostsearchError, match=told):
        TASK.target(torch.rand(1, 3, 8, 8), target)


def test_what_cannot_be_trained_is_told_before(squares, monkeypatch):
    with pytest.raises(GhostsearchError, match=r"train split: label 2 with a detector of 2 classes.*add --classes 3"):
        check_run(ssd(2), squares, TASK)
    with pytest.raises(GhostsearchError, match="trains torchvision's detectors, Conv2d is none"):
        check_run(torch.nn.Conv2d(3, 4, 3), squares, TASK)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"ghostsearch\[detection\]"):
        TASK.meter()


def test_a_detector_learns_is_converted_and_distilled_without_labels(squares):
    torch.manual_seed(0)
    net = ssd()
    check_run(net, squares, TASK)
    train(net, squares, Recipe(epochs=12, lr=0.1), task=TASK)
    net.eval()
    assert evaluate(net, squares.test, TASK) > 0.3
    images = [x for x, _ in squares.train]
    choice = Architecture.of({"backbone.9": "ghost(ratio=2, kernel=3)"})
    made = convert(net, choice, example=images[0][:1], calibration=images)
    copied = convert(net, choice, example=images[0][:1])
    agreement = task_for("detection", labelled=False, baseline=net)
    assert agreement.metric == "COCO mAP against the baseline"
    assert evaluate(net, squares.validation, agreement) == 1
    fitted = evaluate(made, squares.validation, agreement)
    assert fitted > evaluate(copied, squares.validation, agreement)
    train(made, squares, Recipe(epochs=3, lr=0.01), task=agreement)
    assert evaluate(made, squares.validation, agreement) > fitted - 0.1
