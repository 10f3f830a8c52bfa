"""Models by name, with the input they were made for and, where given, trained weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.graph.capture import unwrapped
from ghostsearch.graph.detector import is_detector, own_side, set_side
from ghostsearch.models import cifar, digits, ghostnet, repghost
from ghostsearch.models.heads import set_classes
from ghostsearch.models.input import InputSpec, parse_size
from ghostsearch.models.published import (
    FILE_SUFFIXES,
    Published,
    fetched,
    import_timm,
    is_name,
    timm_input,
    timm_weights,
    torchvision_weights,
    transforms_input,
)
from ghostsearch.models.weights import fill, load_weights, read_weights
from ghostsearch.space.architecture import nearest_names
from ghostsearch.usercode import import_object, is_object_name


@dataclass(frozen=True)
class LoadedModel:
    """A baseline in eval mode, the name it was loaded by and the input it wants."""

    module: nn.Module
    spec: str
    input: InputSpec
    classes: int | None = None
    """The number of classes asked for; None where the builder's own was kept."""
    fresh: tuple[str, ...] = ()
    """Tensors of the classifier that the weights, made for other classes, did not have."""
    weights: str = ""
    """Name or file of the trained weights; empty where the parameters are random."""
    categories: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs; empty where they are not known."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else an exported file should say of it."""


CIFAR_INPUT = InputSpec(32)
IMAGENET_INPUT = InputSpec(224)
DIGITS_INPUT = InputSpec(8, 1, (0.305,), (0.376,))

OWN_MODELS: dict[str, tuple[Callable[..., nn.Module], InputSpec]] = {
    "digits_cnn": (digits.digits_cnn, DIGITS_INPUT),
    "resnet20": (cifar.resnet20, CIFAR_INPUT),
    "resnet32": (partial(cifar.CifarResNet, 5), CIFAR_INPUT),
    "resnet44": (partial(cifar.CifarResNet, 7), CIFAR_INPUT),
    "resnet56": (cifar.resnet56, CIFAR_INPUT),
    "resnet110": (partial(cifar.CifarResNet, 18), CIFAR_INPUT),
    "vgg16": (cifar.vgg16, CIFAR_INPUT),
    "ghostnet": (ghostnet.ghostnet, IMAGENET_INPUT),
    "ghostnet_050": (partial(ghostnet.ghostnet, width=0.5), IMAGENET_INPUT),
    "ghostnet_130": (partial(ghostnet.ghostnet, width=1.3), IMAGENET_INPUT),
    "ghostnetv2": (partial(ghostnet.ghostnet, attention=True), IMAGENET_INPUT),
    "repghostnet": (repghost.repghostnet, IMAGENET_INPUT),
    "ghostnet_cifar": (partial(ghostnet.ghostnet, num_classes=10, stem_stride=1), CIFAR_INPUT),
}
"""`ghostsearch:NAME`: builder and input."""


def example_input(spec: InputSpec, batch: int = 1) -> Tensor:
    """Normalised noise in the shape a model wants: (batch, C, *dims), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *spec.shape, generator=generator)


def known_models(prefix: str = "") -> list[str]:
    """Names that `load_model` knows, of one source when `prefix` starts with it; timm's only then."""
    source = prefix.partition(":")[0]
    names = [f"ghostsearch:{name}" for name in OWN_MODELS] if source in ("", "ghostsearch") else []
    if source in ("", "torchvision"):
        from torchvision.models import list_models

        names += [f"torchvision:{name}" for name in list_models()]
    if source == "timm":
        names += [f"timm:{name}" for name in import_timm().list_models()]
    return names


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    size: int | str | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """A model by name, in eval mode; `package.module:function` runs that code.

    `weights` is a file, or the name of published ones (`default`, `IMAGENET1K_V1`, a timm tag), which bring their class
    names and preprocessing and are downloaded, with a warning, unless the publisher's cache has them. Without it the
    parameters are random, by `seed`, and nothing is ever downloaded. `classes` adapts the classifier; where the weights
    are for another number of classes, it starts afresh. `size`: a side, or (height, width), or `32x100`.
    Raises GhostsearchError for an unknown name, weights that do not fit or a bad input size, mean or std.
    """
    source, _, name = spec.partition(":")
    published = _published(source, name, str(weights)) if weights is not None and is_name(weights) else None
    builders = {"ghostsearch": _build_own, "torchvision": _build_torchvision, "timm": _build_timm}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        builder, adapted = builders.get(source, _build_users), published.options if published else {}
        module, native = builder(spec, name, classes, **adapted)
    if published and not is_detector(module):
        native = published.input
    wanted = wanted_input(native, size, mean, std, spec)
    set_side(module, wanted.dims)
    fresh: tuple[str, ...] = ()
    if published:
        content = fetched(published, spec)
        state = read_weights(content) if isinstance(content, Path) else content
        fresh = fill(module, state, f"weights {published.name} of {spec}", classes=classes)
    elif weights is not None:
        fresh = load_weights(module, Path(weights), classes=classes)
    return LoadedModel(
        module.eval(), spec, wanted, classes, fresh, published.name if published else str(weights or ""),
        published.categories if published and not fresh else (),
    )  # fmt: skip


def _published(source: str, name: str, weights: str) -> Published:
    if source == "torchvision":
        _check_torchvision(f"torchvision:{name}", name)
        return torchvision_weights(name, weights)
    if source == "timm":
        return timm_weights(name.partition(".")[0], weights)
    raise GhostsearchError(
        f"weights {weights!r}: no such file, and only torchvision: and timm: models have published weights"
    )


def wanted_input(
    native: InputSpec,
    size: int | str | Sequence[int] | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    spec: str = "this model",
) -> InputSpec:
    """The native input with what the user asked for; a size of one's own is cropped by the usual rule.

    Raises GhostsearchError for a size, mean or std that no input of this model's channels has.
    """
    changed = parse_size(size)
    if changed is not None and len(native.dims) == 1 and isinstance(changed, int):
        changed = (changed,)
    if changed is not None and len(InputSpec(changed).dims) != len(native.dims):
        raise GhostsearchError(f"{spec} takes inputs of {native}, not of {InputSpec(changed)}")
    if changed is not None and changed != native.size:
        native = replace(native, size=changed, resize=None)
    wanted = replace(native, mean=tuple(mean or native.mean), std=tuple(std or native.std))
    if len(wanted.mean) != wanted.channels or len(wanted.std) != wanted.channels:
        raise GhostsearchError(f"mean and std take {wanted.channels} values each (one per channel) for {spec}")
    if min(wanted.std) <= 0:
        raise GhostsearchError(f"std must be above 0, got {wanted.std}")
    return wanted


Built = tuple[nn.Module, InputSpec]


def _build_own(spec: str, name: str, classes: int | None) -> Built:
    if name not in OWN_MODELS:
        raise _unknown(spec, [f"ghostsearch:{n}" for n in OWN_MODELS])
    build, native = OWN_MODELS[name]
    return build(**_with_classes(classes)), native


def _build_users(spec: str, name: str, classes: int | None) -> Built:  # noqa: ARG001 - the builders' signature
    if hint := _file_hint(spec):
        raise GhostsearchError(hint)
    if not is_object_name(spec):
        raise GhostsearchError(
            f"model {spec!r} is neither a directory that ghostsearch wrote nor torchvision:NAME, timm:NAME, "
            f"ghostsearch:NAME or package.module:function; nearest: {nearest_names(spec, _bare_names())}"
        )
    function = import_object(spec, "model")
    if not callable(function) or isinstance(function, nn.Module):
        raise GhostsearchError(f"model {spec!r} must be a function that returns a torch.nn.Module")
    takes = _parameters(function)
    options = {key: classes for key in ("num_classes", "classes") if classes is not None and key in takes}
    try:
        module = function(**options)
    # The user's code may raise anything; the line says what, and the traceback hangs on the cause.
    except Exception as error:
        raise GhostsearchError(f"model {spec!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise GhostsearchError(f"model {spec!r} must return a torch.nn.Module, got {type(module).__name__}")
    module = unwrapped(module)
    declared = getattr(module, "input_spec", None)
    native = declared if isinstance(declared, InputSpec) else _detector_input(module) or InputSpec(224)
    if classes is not None and not options:
        set_classes(module, classes, example_input(native, 2))
    return module, native


def _file_hint(spec: str) -> str:
    """What to do with a file that was given in the place of a model; empty for what is no file."""
    suffix = Path(spec).suffix.lower()
    if suffix == ".onnx":
        return (
            f"{spec} is an ONNX graph, which can be timed (measure, check, compare) but not changed; "
            "name the PyTorch network that it came from"
        )
    if suffix in FILE_SUFFIXES:
        return (
            f"{spec} is a weights file; name the network that it belongs to: torchvision:NAME --weights {spec}, or a "
            "function of yours that builds it: package.module:function"
        )
    if Path(spec).is_file():
        return f"{spec} is a file, not a model; write torchvision:NAME, timm:NAME or package.module:function"
    return ""


def _check_torchvision(spec: str, name: str) -> None:
    from torchvision import models

    if name not in models.list_models():
        raise _unknown(spec, [f"torchvision:{n}" for n in models.list_models()])
    if name in models.list_models(models.video) + models.list_models(models.optical_flow):
        raise GhostsearchError(
            f"model {spec!r} takes more than one image; ghostsearch loads networks for single images"
        )


def _build_torchvision(spec: str, name: str, classes: int | None, **adapted: Any) -> Built:
    from torchvision import models

    _check_torchvision(spec, name)
    options: dict[str, Any] = {"weights": None, **_with_classes(classes), **adapted}
    if "weights_backbone" in _parameters(models.get_model_builder(name)):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    # Their metadata alone is read: the transforms that the default weights were trained for.
    native = transforms_input(models.get_model_weights(name).DEFAULT.transforms())
    module = models.get_model(name, **options)
    return module, _detector_input(module) or native


def _build_timm(spec: str, name: str, classes: int | None) -> Built:
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise _unknown(spec, [f"timm:{n}" for n in timm.list_models()])
    tags = [t.partition(".")[2] for t in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise _unknown(spec, [f"timm:{architecture}.{t}" for t in tags] or [f"timm:{architecture}"])
    module = timm.create_model(name, pretrained=False, **_with_classes(classes))
    return module, timm_input(timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg(**module.pretrained_cfg))


def _detector_input(module: nn.Module) -> InputSpec | None:
    """The input of a detector, which normalises by itself; None where the module is none."""
    side = own_side(module)
    return None if side is None else InputSpec(side, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _with_classes(classes: int | None) -> dict[str, int]:
    return {} if classes is None else {"num_classes": classes}


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # some functions written in C have none
        return set()


def _bare_names() -> list[str]:
    """Our names and torchvision's, as somebody may have typed them without the source."""
    return known_models("ghostsearch:") + known_models("torchvision:")


def _unknown(spec: str, known: Sequence[str]) -> GhostsearchError:
    return GhostsearchError(f"model {spec!r} is unknown; nearest: {nearest_names(spec, known)}")
