"""Models by name, with the input they were made for and, where given, trained weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostsearch.errors import GhostsearchError, MissingExtraError
from ghostsearch.models import cifar, digits
from ghostsearch.space import nearest_names
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
    """A plain model in eval mode, the name it was loaded by and the input it wants."""

    module: nn.Module
    spec: str
    input: InputSpec
    classes: int | None = None
    """The number of classes asked for; None where the builder's own was kept."""


CIFAR_INPUT = InputSpec(32)
DIGITS_INPUT = InputSpec(8, 1, (0.305,), (0.376,))

OWN_MODELS: dict[str, tuple[Callable[..., nn.Module], InputSpec]] = {
    "digits_cnn": (digits.digits_cnn, DIGITS_INPUT),
    "resnet20": (cifar.resnet20, CIFAR_INPUT),
    "resnet32": (cifar.resnet32, CIFAR_INPUT),
    "resnet44": (cifar.resnet44, CIFAR_INPUT),
    "resnet56": (cifar.resnet56, CIFAR_INPUT),
    "resnet110": (cifar.resnet110, CIFAR_INPUT),
    "vgg16": (cifar.vgg16, CIFAR_INPUT),
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

    `classes` replaces the last classifier layer where its width differs. Without `weights` the parameters are random,
    by `seed`; nothing is ever downloaded. Raises GhostsearchError for an unknown name or weights that do not fit.
    """
    source, _, name = spec.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, native = _build(spec, source, name)
        if classes is not None:
            set_classes(module, classes)
    wanted = InputSpec(
        size or native.size, native.channels, tuple(mean or native.mean), tuple(std or native.std)
    )
    if len(wanted.mean) != wanted.channels or len(wanted.std) != wanted.channels:
        raise GhostsearchError(f"mean and std take {wanted.channels} values each (one a channel) for {spec}")
    if weights is not None:
        load_weights(module, weights)
    return LoadedModel(module.eval(), spec, wanted, classes)


def _build(spec: str, source: str, name: str) -> tuple[nn.Module, InputSpec]:
    match source:
        case "ghostsearch":
            if name not in OWN_MODELS:
                raise _unknown(spec, [f"ghostsearch:{n}" for n in OWN_MODELS])
            build, native = OWN_MODELS[name]
            return build(), native
        case "torchvision":
            return _build_torchvision(spec, name)
        case "timm":
            return _build_timm(spec, name)
    if not is_object_name(spec):
        raise GhostsearchError(
            f"model {spec!r} is neither a directory nor torchvision:NAME, timm:NAME, ghostsearch:NAME or "
            f"package.module:function; did you mean 'torchvision:{spec}'?"
        )
    module = import_object(spec, "model")()
    if not isinstance(module, nn.Module):
        raise GhostsearchError(f"model {spec!r} must return a torch.nn.Module, got {type(module).__name__}")
    declared = getattr(module, "input_spec", None)
    return module, declared if isinstance(declared, InputSpec) else InputSpec(224)


def _build_torchvision(spec: str, name: str) -> tuple[nn.Module, InputSpec]:
    from torchvision.models import get_model, get_model_weights, list_models

    if name not in list_models():
        raise _unknown(spec, [f"torchvision:{n}" for n in list_models()])
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in _parameters(name):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    module = get_model(name, **options)
    transform = next((w.transforms() for w in get_model_weights(name)), None)
    crop = getattr(transform, "crop_size", None)
    size = crop[-1] if isinstance(crop, list | tuple) else crop
    mean, std = getattr(transform, "mean", IMAGENET_MEAN), getattr(transform, "std", IMAGENET_STD)
    return module, InputSpec(int(size or 224), 3, tuple(mean), tuple(std))


def _parameters(name: str) -> set[str]:
    import inspect

    from torchvision.models import get_model_builder

    return set(inspect.signature(get_model_builder(name)).parameters)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    return timm


def _build_timm(spec: str, name: str) -> tuple[nn.Module, InputSpec]:
    timm = _timm()
    if name.partition(".")[0] not in timm.list_models():
        raise _unknown(spec, [f"timm:{n}" for n in timm.list_models()])
    module = timm.create_model(name, pretrained=False)
    config = module.default_cfg
    channels, _, size = config["input_size"]
    return module, InputSpec(size, channels, tuple(config["mean"]), tuple(config["std"]))


def _unknown(spec: str, known: Sequence[str]) -> GhostsearchError:
    return GhostsearchError(f"model {spec!r} is unknown; nearest: {nearest_names(spec, known)}")


def set_classes(module: nn.Module, classes: int) -> None:
    """Give the last linear layer (or 1×1 classifier convolution) `classes` outputs, freshly initialised; in place.

    A layer that already has them keeps its parameters. Raises GhostsearchError when there is no such layer.
    """
    last = next(
        (p for p, m in reversed(list(module.named_modules())) if isinstance(m, nn.Linear) or _is_head(m)), None
    )
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
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1 and module.bias is not None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file, by name; nothing in the file is ever run.

    Unwraps `state_dict` and `model` entries and the `module.` prefix of data-parallel training.
    Raises GhostsearchError when the file is missing, truncated, foreign or holds more than tensors.
    """
    if not path.is_file():
        raise GhostsearchError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise GhostsearchError(
            f"weights {path}: holds more than tensors (a whole pickled model?); save model.state_dict() instead"
        ) from None
    except Exception as error:  # noqa: BLE001 - a foreign file may break the reader in any way
        raise GhostsearchError(f"weights {path}: cannot be read, truncated or foreign ({type(error).__name__})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise GhostsearchError(f"weights {path}: must hold named tensors (a state dict)")
    return {str(k).removeprefix("module."): v for k, v in state.items()}


def load_weights(module: nn.Module, path: Path) -> None:
    """Load trained weights into a model, strictly; in place. Raises GhostsearchError naming what does not fit."""
    state, own = read_weights(path), module.state_dict()
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    if wrong:
        k = wrong[0]
        hint = "; give --classes" if k.endswith(("weight", "bias")) and state[k].shape[1:] == own[k].shape[1:] else ""
        raise GhostsearchError(
            f"weights {path}: {k} has shape {tuple(state[k].shape)}, the model wants {tuple(own[k].shape)}{hint}"
        )
    if missing or foreign:
        parts = [f"{len(x)} {what}, such as {x[0]}" for x, what in ((missing, "missing"), (foreign, "unknown")) if x]
        raise GhostsearchError(f"weights {path}: not of this model: {'; '.join(parts)}")
    module.load_state_dict(state, strict=False)
