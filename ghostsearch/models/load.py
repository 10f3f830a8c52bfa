"""Models by name, with the input they were made for and, where given, trained weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.models import cifar, digits, ghostnet, repghost
from ghostsearch.models.weights import load_weights
from ghostsearch.space.architecture import nearest_names
from ghostsearch.usercode import import_object, is_object_name

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """What a model wants to see: square images of `size` pixels, scaled to 0…1, then normalised by mean and std."""

    size: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


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


CIFAR_INPUT = InputSpec(32)
IMAGENET_INPUT = InputSpec(224)
DIGITS_INPUT = InputSpec(8, 1, (0.305,), (0.376,))

OWN_MODELS: dict[str, tuple[Callable[..., nn.Module], InputSpec]] = {
    "digits_cnn": (digits.digits_cnn, DIGITS_INPUT),
    "resnet20": (cifar.resnet20, CIFAR_INPUT),
    "resnet32": (cifar.resnet32, CIFAR_INPUT),
    "resnet44": (cifar.resnet44, CIFAR_INPUT),
    "resnet56": (cifar.resnet56, CIFAR_INPUT),
    "resnet110": (cifar.resnet110, CIFAR_INPUT),
    "vgg16": (cifar.vgg16, CIFAR_INPUT),
    "ghostnet": (ghostnet.ghostnet, IMAGENET_INPUT),
    "ghostnet_050": (ghostnet.ghostnet_050, IMAGENET_INPUT),
    "ghostnet_130": (ghostnet.ghostnet_130, IMAGENET_INPUT),
    "ghostnetv2": (ghostnet.ghostnetv2, IMAGENET_INPUT),
    "repghostnet": (repghost.repghostnet, IMAGENET_INPUT),
    "ghostnet_cifar": (ghostnet.ghostnet_cifar, CIFAR_INPUT),
}
"""`ghostsearch:NAME`: builder and input."""


def example_input(spec: InputSpec, batch: int = 1) -> Tensor:
    """Normalised noise in the shape a model wants: (batch, C, size, size), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, spec.channels, spec.size, spec.size, generator=generator)


def known_models(prefix: str = "") -> list[str]:
    """Names that `load_model` knows, of one source when `prefix` starts with it."""
    source = prefix.partition(":")[0]
    names = [f"ghostsearch:{name}" for name in OWN_MODELS] if source in ("", "ghostsearch") else []
    if source in ("", "torchvision"):
        from torchvision.models import list_models

        names += [f"torchvision:{name}" for name in list_models()]
    if source == "timm":
        names += [f"timm:{name}" for name in _timm().list_models()]
    return names


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """A model by name, in eval mode; `package.module:function` runs that code.

    `classes` adapts the classifier; where `weights` are for another number of classes, it starts afresh. Without
    `weights` the parameters are random, by `seed`; nothing is ever downloaded.
    Raises GhostsearchError for an unknown name, weights that do not fit or a bad input size, mean or std.
    """
    source, _, name = spec.partition(":")
    builders = {"ghostsearch": _build_own, "torchvision": _build_torchvision, "timm": _build_timm}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, native = builders.get(source, _build_users)(spec, name, classes)
    wanted = InputSpec(size or native.size, native.channels, tuple(mean or native.mean), tuple(std or native.std))
    if len(wanted.mean) != wanted.channels or len(wanted.std) != wanted.channels:
        raise GhostsearchError(f"mean and std take {wanted.channels} values each (one a channel) for {spec}")
    if min(wanted.std) <= 0 or wanted.size < 1:
        raise GhostsearchError(f"std and size must be above 0, got {wanted.std} and {wanted.size}")
    fresh = load_weights(module, weights, classes=classes) if weights is not None else ()
    return LoadedModel(module.eval(), spec, wanted, classes, fresh)


Built = tuple[nn.Module, InputSpec]


def _build_own(spec: str, name: str, classes: int | None) -> Built:
    if name not in OWN_MODELS:
        raise _unknown(spec, [f"ghostsearch:{n}" for n in OWN_MODELS])
    build, native = OWN_MODELS[name]
    return build(**_with_classes(classes)), native


def _build_users(spec: str, name: str, classes: int | None) -> Built:  # noqa: ARG001 - the builders' signature
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
    if classes is not None and not options:
        set_classes(module, classes)
    declared = getattr(module, "input_spec", None)
    return module, declared if isinstance(declared, InputSpec) else InputSpec(224)


def _build_torchvision(spec: str, name: str, classes: int | None) -> Built:
    from torchvision import models

    if name not in models.list_models():
        raise _unknown(spec, [f"torchvision:{n}" for n in models.list_models()])
    if name in models.list_models(models.video) + models.list_models(models.optical_flow):
        raise GhostsearchError(
            f"model {spec!r} takes more than one image; ghostsearch loads networks for single images"
        )
    options: dict[str, Any] = {"weights": None, **_with_classes(classes)}
    if "weights_backbone" in _parameters(models.get_model_builder(name)):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    # Their metadata alone is read: the transforms that the default weights were trained for.
    transform = models.get_model_weights(name).DEFAULT.transforms()
    side = next((s for a in ("crop_size", "resize_size") if (s := getattr(transform, a, None))), [224])
    mean, std = getattr(transform, "mean", IMAGENET_MEAN), getattr(transform, "std", IMAGENET_STD)
    native = InputSpec(side[-1] if isinstance(side, list | tuple) else side, 3, tuple(mean), tuple(std))
    return models.get_model(name, **options), native


def _build_timm(spec: str, name: str, classes: int | None) -> Built:
    timm = _timm()
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise _unknown(spec, [f"timm:{n}" for n in timm.list_models()])
    tags = [t.partition(".")[2] for t in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise _unknown(spec, [f"timm:{architecture}.{t}" for t in tags] or [f"timm:{architecture}"])
    module = timm.create_model(name, pretrained=False, **_with_classes(classes))
    config = module.pretrained_cfg
    channels, _, size = config["input_size"]
    return module, InputSpec(size, channels, tuple(config["mean"]), tuple(config["std"]))


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    return timm


def _with_classes(classes: int | None) -> dict[str, int]:
    return {} if classes is None else {"num_classes": classes}


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # some functions written in C tell none
        return set()


def _bare_names() -> list[str]:
    """Our names and torchvision's, as somebody may have typed them without the source."""
    return known_models("ghostsearch:") + known_models("torchvision:")


def _unknown(spec: str, known: Sequence[str]) -> GhostsearchError:
    return GhostsearchError(f"model {spec!r} is unknown; nearest: {nearest_names(spec, known)}")


def set_classes(module: nn.Module, classes: int) -> None:
    """Give the last linear layer (or 1×1 classifier convolution) `classes` outputs, freshly initialised; in place.

    A layer that already has them keeps its parameters. Raises GhostsearchError when there is no such layer.
    """
    last = next((p for p, m in reversed(list(module.named_modules())) if isinstance(m, nn.Linear) or _is_head(m)), None)
    if last is None:
        raise GhostsearchError("--classes: the model has no linear layer or 1×1 convolution at its end to adapt")
    old = module.get_submodule(last)
    if getattr(old, "out_features", getattr(old, "out_channels", None)) == classes:
        return
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
    module.set_submodule(last, new)


def _is_head(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.groups == 1
        and module.bias is not None
    )
