"""The trained networks that several benchmarks ask about: their arguments, and network and images as a setup."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.imagenet_sample import open_sample
from ghostsearch.machine import processor
from ghostsearch.measure.audit import random_architectures
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.config import RunConfig
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.units import counted

FLATTERED = (
    "The authors of CIFAR's weights trained them on the selection images in their lossless form: scores there are too "
    "good (the baseline's by five points), and rank."
)
JUDGED, BATCH = 128, 64
"""Of the images without labels those that judge, and in a batch."""
NEAR = 0.06
"""How far from a share of the MACs `random_near` takes architectures."""


def compute_device() -> str:
    """Where fits and trainings run: the GPU where there is one, else the processor and its threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({processor()})"
    return f"{processor()}, {counted(torch.get_num_threads(), 'thread')}"


def study_arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser of what a study is made of: network, images and space."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ghostsearch:digits_cnn")
    parser.add_argument("--weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--validation-list")
    parser.add_argument("--space", default="ghost_width")
    parser.add_argument("--train-images", type=int)
    return parser


def network_arguments(
    about: str | None, networks: Sequence[str], work: str, *, required: bool = False
) -> argparse.ArgumentParser:
    """A parser of what such benchmarks take; the first network is the default. required: images and weights too."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=networks, default=networks[0])
    parser.add_argument(
        "--data", type=Path, required=required, help="folder with train/ and test/, or calibration/ and test/"
    )
    parser.add_argument("--validation-list", type=Path, required=required)
    parser.add_argument("--weights", type=Path, required=required)
    parser.add_argument("--images", type=int, default=256, help="to fit to, without labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser


def configured(args: argparse.Namespace, images: int) -> RunConfig:
    """The CIFAR network that the arguments name, with so many images to fit to."""
    listed = args.validation_list and str(args.validation_list)
    return RunConfig(
        model=f"ghostsearch:{args.net}", weights=str(args.weights), data=f"folder:{args.data}",
        validation_list=listed, calibration_images=images, seed=args.seed, out=str(args.work),
    )  # fmt: skip


def opened(args: argparse.Namespace) -> Setup:
    """The trained network and its images."""
    if args.net.startswith("lite"):
        return open_sample(args.data, "fine", network=args.net, seed=args.seed)
    return open_setup(configured(args, args.images))


def without_labels(args: argparse.Namespace) -> Setup:
    """The trained network and as many images as asked for: the last of them to judge by, the others to fit on.

    No label of either is there; Data.test has its labels.
    """
    setup = opened(args)
    if args.net.startswith("lite"):
        return setup
    images = torch.cat(list(setup.calibration or ()))
    fitted, judged = images[:-JUDGED].split(BATCH), images[-JUDGED:].split(BATCH)
    nothing = [(x, torch.zeros(len(x), dtype=torch.long)) for x in judged]
    data = replace(setup.data, train=[(x, None) for x in fitted], validation=nothing)
    return replace(setup, data=data, calibration=list(fitted))


def random_near(bench: Setup, count: int, share: float, seed: int) -> list[Architecture]:
    """Random architectures of the space whose MACs are near a share of the baseline's."""
    drawn = random_architectures(bench.space, 100 * count, seed)
    shares = ((a, bench.cost(a).macs / bench.baseline_cost.macs) for a in drawn)
    return [a for a, found in shares if abs(found - share) <= NEAR][:count]
