"""Weights by name, as torchvision and timm publish them: their own loaders, caches and hashes, with class names and
preprocessing; a download is announced and happens only when the weights were asked for.
"""

from __future__ import annotations

import math
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ghostsearch.errors import GhostsearchError, GhostsearchWarning, MissingExtraError, in_a_line
from ghostsearch.models.input import InputSpec
from ghostsearch.space.architecture import nearest_names

FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt", ".tar", ".pkl")


@dataclass(frozen=True)
class Published:
    """Weights that a model's publisher offers, perhaps in the cache already."""

    name: str
    """Such as `IMAGENET1K_V1`."""
    input: InputSpec
    categories: tuple[str, ...]
    """Names of the classes; empty where the publisher gives none."""
    url: str
    file: Path | None
    """Where the cache has it, or will; None where that is not known before."""
    cached: bool
    megabytes: float
    fetch: Callable[[], Any]
    """The file's content (torchvision) or path (timm); downloads what is not cached."""
    options: dict[str, Any]
    """What the builder must be given for these weights."""


def is_name(weights: str | Path) -> bool:
    """Whether `--weights` names published weights rather than a file."""
    text = str(weights)
    return not (Path(text).exists() or "/" in text or text.lower().endswith(FILE_SUFFIXES))


def fetched(found: Published, spec: str) -> Any:
    """The weights' content, from the cache or, after a warning, from their publisher.

    Raises GhostsearchError when they are not cached and cannot be downloaded, or the cached file is damaged.
    """
    if not found.cached:
        where = f"; cached at {found.file}" if found.file else ""
        warnings.warn(
            f"{spec}: downloads weights {found.name} ({found.megabytes:.1f} MB) from the model's publisher{where}",
            GhostsearchWarning,
            stacklevel=2,
        )
    try:
        return found.fetch()
    # A network, a disk or a damaged file may break this in any way.
    except Exception as error:  # noqa: BLE001
        reason = in_a_line(error)
        if found.cached:
            raise GhostsearchError(f"weights {found.file}: cannot be read ({reason}); delete the file") from None
        raise GhostsearchError(
            f"weights {found.name} of {spec} are not cached and cannot be downloaded ({reason}); download {found.url} "
            "elsewhere and give it as --weights FILE"
        ) from None


def torchvision_weights(architecture: str, name: str) -> Published:
    """Published weights of a torchvision model; `default` are its best. Raises GhostsearchError for an unknown name."""
    from torchvision import models

    offered = models.get_model_weights(architecture)
    try:
        weights: Any = offered.DEFAULT if name.lower() == "default" else offered[name]
    except KeyError:
        names = ["default", *(w.name for w in offered)]
        raise GhostsearchError(
            f"weights {name!r}: neither a file nor published for torchvision:{architecture}; it has {', '.join(names)}"
        ) from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name

    def fetch() -> Any:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)

    return Published(
        weights.name, transforms_input(weights.transforms()), tuple(weights.meta.get("categories", ())), weights.url,
        file, file.exists(), float(weights.meta.get("_file_size", 0)), fetch, _build_options(architecture, weights),
    )  # fmt: skip


def _build_options(architecture: str, weights: Any) -> dict[str, Any]:
    """What torchvision's builders set by themselves when they are given weights."""
    if architecture in ("googlenet", "inception_v3"):
        return {"transform_input": True}
    if architecture.startswith("vit_"):
        return {"image_size": weights.meta["min_size"][0]}
    if architecture.startswith(("fcn_", "deeplabv3_", "lraspp_")):
        return {} if architecture.startswith("lraspp_") else {"aux_loss": True}
    return {}


def transforms_input(transform: Any) -> InputSpec:
    """The input that a torchvision preset of transforms makes; detectors normalise by themselves."""
    crop, resize = getattr(transform, "crop_size", None), getattr(transform, "resize_size", None)
    size = (crop or resize or [224])[-1]
    if not hasattr(transform, "mean"):
        return InputSpec(size, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    shorter = resize[-1] if crop and resize else None
    how = getattr(transform, "interpolation", None)
    return InputSpec(size, 3, tuple(transform.mean), tuple(transform.std), shorter, how.value if how else "bilinear")


def timm_weights(architecture: str, name: str) -> Published:
    """Published weights of a timm model: `default`, or a tag such as `a1_in1k`. Raises GhostsearchError otherwise."""
    timm = import_timm()
    tags = [text.partition(".")[2] for text in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (name.lower() != "default" and name not in tags):
        near = f"nearest: {nearest_names(name, tags)}" if tags else "it has none"
        raise GhostsearchError(f"weights {name!r}: neither a file nor published for timm:{architecture}; {near}")
    whole = architecture if name.lower() == "default" else f"{architecture}.{name}"
    config = timm.get_pretrained_cfg(whole)
    file = _timm_file(config)
    with torch.device("meta"):
        params = sum(p.numel() for p in timm.create_model(whole, pretrained=False).parameters())
    return Published(
        config.tag or name, timm_input(config), _timm_categories(timm, config),
        config.url or f"https://huggingface.co/{config.hf_hub_id}", file, file is not None and file.exists(),
        params * 4 / 1e6, lambda: _timm_download(config), {},
    )  # fmt: skip


def timm_input(config: Any) -> InputSpec:
    """The input of a timm model's configuration: size, normalisation, crop and interpolation."""
    channels, height, width = config.input_size
    size = height if height == width else (height, width)
    resize = math.floor(min(height, width) / config.crop_pct) if config.crop_pct else None
    how = config.interpolation if config.interpolation in ("bilinear", "bicubic", "nearest") else "bilinear"
    return InputSpec(size, channels, tuple(config.mean), tuple(config.std), resize, how)


def _timm_categories(timm: Any, config: Any) -> tuple[str, ...]:
    if config.label_names:
        return tuple(config.label_names)
    if config.num_classes != 1000:
        return ()
    info = timm.data.ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(i) for i in range(1000))


def _timm_file(config: Any) -> Path | None:
    """The file in the cache of Hugging Face's hub or of torch; None where it is not there."""
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for name in _hub_names(config):
            found = try_to_load_from_cache(config.hf_hub_id, name)
            if isinstance(found, str):
                return Path(found)
        return None
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name


def _hub_names(config: Any) -> tuple[str, ...]:
    return (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")


def _timm_download(config: Any) -> Path:
    """The path of the file, which timm's own loader then reads; the hub's and torch's downloaders check its hash."""
    there = _timm_file(config)
    if there is not None and there.exists():
        return there
    if not config.hf_hub_id:
        assert there is not None
        there.parent.mkdir(parents=True, exist_ok=True)
        # Publishers put the beginning of the hash into the name: resnet18_a1_0-d63eafa0.pth.
        found = re.search(r"-([a-f0-9]{8,})\.", there.name)
        torch.hub.download_url_to_file(config.url, str(there), found[1] if found else None, progress=False)
        return there
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    _require_hub()
    first, *others = _hub_names(config)
    try:
        return Path(hf_hub_download(config.hf_hub_id, first))
    # Older models are there under the other name alone.
    except EntryNotFoundError:
        if not others:
            raise
        return Path(hf_hub_download(config.hf_hub_id, others[0]))


def _require_hub() -> None:
    """Raise OSError at once where the hub cannot be reached: its own client tries for most of a minute."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()  # noqa: S310


def import_timm() -> Any:
    """The timm package; raises MissingExtraError where it is not installed."""
    try:
        import timm
        import timm.data
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    return timm
