"""Figures as the GhostNet paper prints them (Han et al. 2020), and whether a count agrees with one."""

from __future__ import annotations

from dataclasses import dataclass

MILLION, BILLION = 10**6, 10**9


@dataclass(frozen=True)
class Printed:
    """A row of a table: text as printed, so that its number of digits is known; empty where the paper has none."""

    net: str
    params: str
    """In millions."""
    macs: str
    """The paper says FLOPs and means multiply-adds; in the table's unit."""
    accuracy: str = ""
    """Top-1, in percent."""


VGG16 = Printed("VGG-16", "15.0", "313", "93.6")
GHOST_VGG16 = {
    (2, 1): Printed("Ghost-VGG-16", "7.6", "157", "93.5"),
    (2, 3): Printed("Ghost-VGG-16", "7.7", "158", "93.7"),
    (2, 5): Printed("Ghost-VGG-16", "7.7", "160", "93.4"),
    (2, 7): Printed("Ghost-VGG-16", "7.7", "163", "93.1"),
    (3, 3): Printed("Ghost-VGG-16", "5.2", "107", "93.4"),
    (4, 3): Printed("Ghost-VGG-16", "4.0", "80", "93.0"),
    (5, 3): Printed("Ghost-VGG-16", "3.3", "65", "92.9"),
}
"""By ratio s and kernel d; MACs in millions at 32×32."""

RESNET56 = Printed("ResNet-56", "0.85", "125", "93.0")
GHOST_RESNET56 = Printed("Ghost-ResNet-56 (s=2)", "0.43", "63", "92.7")
CIFAR_PEERS = (
    Printed("l1-VGG-16", "5.4", "206", "93.4"),
    Printed("SBP-VGG-16", "", "136", "92.5"),
    Printed("l1-ResNet-56", "0.73", "91", "92.5"),
    Printed("CP-ResNet-56", "", "63", "92.0"),
    Printed("AMC-ResNet-56", "", "63", "91.9"),
)
"""MACs in millions at 32×32; methods of others, which are printed but not counted here."""

RESNET50 = Printed("ResNet-50", "25.6", "4.1", "75.3")
GHOST_RESNET50 = {
    2: Printed("Ghost-ResNet-50 (s=2)", "13.0", "2.2", "75.0"),
    4: Printed("Ghost-ResNet-50 (s=4)", "6.5", "1.2", "74.1"),
}
"""By ratio s; MACs in billions at 224×224."""

SMALL_NETS = {
    "ghostsearch:ghostnet_050": Printed("GhostNet 0.5×", "2.6", "42", "66.2"),
    "ghostsearch:ghostnet": Printed("GhostNet 1.0×", "5.2", "141", "73.9"),
    "ghostsearch:ghostnet_130": Printed("GhostNet 1.3×", "7.3", "226", "75.7"),
    "torchvision:mobilenet_v2": Printed("MobileNetV2 1.0×", "3.5", "300", "71.8"),
    "timm:mobilenetv3_large_075": Printed("MobileNetV3-L 0.75×", "4.0", "155", "73.3"),
    "torchvision:mobilenet_v3_large": Printed("MobileNetV3-L 1.0×", "5.4", "219", "75.2"),
    "torchvision:shufflenet_v2_x1_0": Printed("ShuffleNetV2 1.0×", "2.3", "146", "69.4"),
    "torchvision:shufflenet_v2_x1_5": Printed("ShuffleNetV2 1.5×", "3.5", "299", "72.6"),
    "torchvision:efficientnet_b0": Printed("EfficientNet-B0", "", "", ""),
    "torchvision:resnet18": Printed("ResNet-18", "", "", ""),
    "ghostsearch:ghostnetv2": Printed("GhostNetV2 1.0×", "", "", ""),
    "ghostsearch:repghostnet": Printed("RepGhostNet 1.0×, fused", "", "", ""),
}
"""By model; MACs in millions at 224×224. The last four are not in the paper: they show what latency adds."""


def agrees(printed: str, counted: int, unit: int) -> bool | None:
    """Whether a count, cut or rounded to the printed digits, is the printed figure; None where nothing is printed.

    The paper truncates its FLOPs; its parameters are rounded.
    """
    if not printed:
        return None
    digits = len(printed.partition(".")[2])
    scaled = counted * 10**digits
    wanted = round(float(printed) * 10**digits)
    return wanted in (scaled // unit, (2 * scaled + unit) // (2 * unit))
