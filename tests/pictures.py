"""Pictures of coloured squares with their boxes, as a VOC folder, and small detectors that learn to find them."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign

SIDE, COLOURS = 64, {"blue": (60, 60, 200), "red": (200, 60, 60)}


def voc_xml(boxes, size=(SIDE, SIDE), difficult=0) -> str:
    """A VOC file of boxes (name, left, top, right, bottom)."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"


def write_voc(root: Path, count: int = 60, seed: int = 0) -> Path:
    """A VOC folder of noisy pictures, one or two squares in each."""
    rng = np.random.default_rng(seed)
    for part in ("JPEGImages", "Annotations"):
        (root / part).mkdir(parents=True)
    for i in range(count):
        pixels, boxes = rng.normal(60, 12, (SIDE, SIDE, 3)), []
        for _ in range(rng.integers(1, 3)):
            name, size = list(COLOURS)[rng.integers(2)], int(rng.integers(14, 24))
            x, y = rng.integers(0, SIDE - size, 2)
            pixels[y : y + size, x : x + size] = COLOURS[name]
            boxes.append((name, x, y, x + size, y + size))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "JPEGImages" / f"{i:03d}.png")
        (root / "Annotations" / f"{i:03d}.xml").write_text(voc_xml(boxes))
    return root


def backbone() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width, stride in ((3, 16, 2), (16, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    net = nn.Sequential(*layers)
    net.out_channels = 32
    return net


def anchors(*sizes: int) -> AnchorGenerator:
    return AnchorGenerator((sizes,), ((1.0,),))


def ssd(num_classes: int = 3) -> SSD:
    """One stage, anchors in fixed shares of the image."""
    boxes = DefaultBoxGenerator([[1]], scales=[0.25, 0.35])
    head = SSDHead([32], [4], num_classes)
    return SSD(backbone(), boxes, (SIDE, SIDE), num_classes, head=head, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def retinanet(num_classes: int = 3) -> RetinaNet:
    """One stage, focal loss."""
    return RetinaNet(backbone(), num_classes, min_size=SIDE, max_size=SIDE, anchor_generator=anchors(12, 18, 24))


def fcos(num_classes: int = 3) -> FCOS:
    """One stage, no anchors."""
    return FCOS(backbone(), num_classes, min_size=SIDE, max_size=SIDE, anchor_generator=anchors(8))


def faster_rcnn(num_classes: int = 3) -> FasterRCNN:
    """Two stages, few regions."""
    return FasterRCNN(
        backbone(), None, min_size=SIDE, max_size=SIDE, rpn_anchor_generator=anchors(12, 18, 24),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2), box_head=TwoMLPHead(32 * 25, 64),
        box_predictor=FastRCNNPredictor(64, num_classes), box_batch_size_per_image=32, box_detections_per_img=10,
        rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=30, rpn_pre_nms_top_n_test=50, rpn_post_nms_top_n_test=20,
    )  # fmt: skip


DETECTORS = {"ssd": ssd, "retinanet": retinanet, "fcos": fcos, "faster_rcnn": faster_rcnn}
