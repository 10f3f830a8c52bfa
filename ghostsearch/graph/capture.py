"""Runs a model without touching it: on a copy without data where that works, else on a copy on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.parameter import UninitializedParameter

from ghostsearch.errors import GhostsearchError, in_a_line, text_of

Shape = tuple[int, ...]
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


def call(model: nn.Module, example: Any) -> Any:
    """The model's forward on a copy of an example, which a forward that normalises in place would overwrite."""
    return call_itself(model, mapped(example, torch.clone))


def call_itself(model: nn.Module, example: Any) -> Any:
    """The model's forward on an example: a tuple is positional arguments, a dict keywords, all else one argument."""
    if isinstance(example, tuple):
        return model(*example)
    if isinstance(example, dict):
        return model(**example)
    return model(example)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, field.name) for field in fields(value)])


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Every module's own mode, training or eval, comes back when the block ends."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Callable[..., Any]]], *, with_kwargs: bool = False) -> Iterator[None]:
    """Forward hooks on modules within; they are taken away when the block ends."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.enter_context(module.register_forward_hook(hook, with_kwargs=with_kwargs))
        yield


def moved(example: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """The example with every tensor on a device, those of floating point in a precision if one is given."""
    return mapped(example, lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None))


def mapped(example: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The example with every tensor, in order, replaced by what `change` makes of it."""
    if isinstance(example, Tensor):
        return change(example)
    if isinstance(example, dict):
        return {key: mapped(item, change) for key, item in example.items()}
    if isinstance(example, list | tuple):
        return like(example, [mapped(item, change) for item in example])
    return example


def like(sequence: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    """Items in a list, tuple or named tuple like another."""
    return sequence._make(items) if hasattr(sequence, "_make") else type(sequence)(items)


def memory_order(
    example: Any, *models: nn.Module, forward: Callable[[nn.Module, Any], Any] = call
) -> torch.memory_format:
    """channels_last, in which convolutions, above all depthwise ones, run fastest on a CPU, where the models run in it;
    else contiguous, which a forward that asks for a `view` of maps needs.

    Found by a forward in eval mode of the example's first two images; the models are left as they are.
    """
    listed = is_image_list(example)
    example, images = (example[:2], 0) if listed else (example, batch_size(example))

    def few(x: Tensor) -> Tensor:
        x = x[:2] if x.dim() and len(x) == images else x
        # Not `contiguous`: images of one channel pass for both orders, whatever their strides.
        return torch.empty_like(x, memory_format=torch.channels_last).copy_(x) if x.dim() == 4 else x

    try:
        with torch.no_grad(), modes_kept(*models), torch.random.fork_rng(devices=[]):
            for model in models:
                forward(model.eval(), mapped(example, few))
    # A foreign forward may raise anything; where the order was not the cause it does so again.
    except Exception:  # noqa: BLE001
        return torch.contiguous_format
    return torch.channels_last


def in_order(x: Any, order: torch.memory_format) -> Any:
    """Images (N, C, H, W) in a memory order; all else as it is."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return x
    x = x.contiguous(memory_format=order)
    # Images of one channel may be contiguous and have the other order's strides, by which PyTorch goes.
    return x.view(-1).view(x.shape) if order == torch.contiguous_format else x


def to_order(model: nn.Module, order: torch.memory_format) -> None:
    """Put a model's weights of images (4-D) in a memory order, in place; those of volumes (5-D) have none of these."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=order)


def unwrapped(model: Any) -> nn.Module:
    """The model without `torch.compile`'s wrappers: itself where it has none, a copy that shares its data where a part
    is wrapped. Raises GhostsearchError for what is no module, or a program in which no layers are left.
    """
    model = getattr(model, "_orig_mod", model)
    kind = type(model).__name__
    if not isinstance(model, nn.Module) and not hasattr(model, "graph_module"):
        raise GhostsearchError(f"expected a torch.nn.Module, got {kind}")
    exported = isinstance(model, fx.GraphModule) and any(isinstance(n.target, OpOverload) for n in model.graph.nodes)
    if exported or isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise GhostsearchError(
            f"expected a torch.nn.Module with layers, got {kind}: an exported or scripted program has none left; "
            "convert the module that it was made from, then export that"
        )
    if any("_orig_mod" in module._modules for module in model.modules()):
        model = light_copy(model)
        for module in list(model.modules()):
            for name, child in module._modules.items():
                module._modules[name] = getattr(child, "_orig_mod", child)
    return model


def output_channels(layer: Any) -> int:
    """Output channels of a convolution, or features of a linear layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def is_image_list(example: Any) -> bool:
    """Whether an example is a list of single images (C, *dims), as a detector takes them, and not of whole batches.

    Volumes (C, D, H, W) have as many sides as batches, of which there are several of one length and different shapes.
    """
    if not isinstance(example, list) or not all(isinstance(x, Tensor) for x in example):
        return False
    shapes = {tuple(x.shape[1:]) for x in example}
    batches = all(x.dim() > 3 for x in example) and len({len(x) for x in example}) == 1 and len(shapes) > 1
    return not batches and all(x.dim() < 5 for x in example)


def batch_size(example: Any) -> int:
    """Images in an example: the first dimension of its first tensor, or the length of a list of images."""
    if is_image_list(example):
        return max(1, len(example))
    first = next(tensors(example), None)
    return int(first.shape[0]) if first is not None and first.dim() > 1 else 1


def copied(model: nn.Module) -> nn.Module:
    """A deep copy in the same mode; raises GhostsearchError for a model that cannot be copied."""
    return _copied(model, {}, torch.clone)


def meta_copy(model: nn.Module) -> nn.Module:
    """The model's structure on the meta device: no data is copied, so it takes no memory and little time."""
    _refuse_lazy(model)
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_on_meta(parameter), parameter.requires_grad)
    memo |= {id(buffer): _on_meta(buffer) for buffer in model.buffers()}
    return _copied(model, memo, _on_meta)


def light_copy(model: nn.Module) -> nn.Module:
    """A copy of the structure that shares the data: for changes that replace tensors, never for those in place."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return _copied(model, memo, torch.clone)


def _copied(model: nn.Module, memo: dict[int, Any], copy_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    _refuse_lazy(model)
    for module in model.modules():
        for value in vars(module).values():
            # Hooks such as weight_norm's and pruning's leave computed tensors, which deepcopy refuses.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = copy_tensor(value.detach())
    try:
        made = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise GhostsearchError(f"this model cannot be copied ({text_of(error)}); converting works on a copy") from None
    _same_state(model, made)
    return made


def _same_state(model: nn.Module, made: nn.Module) -> None:
    """Modes and hooks as in the original: a torch.fx graph module forgets them when it is copied."""
    originals = dict(model.named_modules(remove_duplicate=False))
    for path, module in made.named_modules(remove_duplicate=False):
        old = originals.get(path)
        if old is None:
            continue
        if module.training != old.training:
            # Not by attribute: torchvision's feature extractors exchange their graph. Children follow in their turn.
            module.train(old.training)
        for name in HOOKS:
            if getattr(old, name, None) and not getattr(module, name, None):
                setattr(module, name, copy.copy(getattr(old, name)))
    if _forgot_its_mode(model):
        made.eval()


def _forgot_its_mode(model: nn.Module) -> bool:
    """Whether this is a deep copy of a torchvision feature extractor, which stands in training mode whatever it was."""
    copied_extractor = hasattr(model, "eval_graph") and hasattr(model, "train_graph") and "meta" in vars(model)
    return copied_extractor and all(module.training for module in model.modules())


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _refuse_lazy(model: nn.Module) -> None:
    lazy = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise GhostsearchError(f"{lazy[0]!r} is lazy, it has no shape before the first forward; run one forward first")


def forward_copy(model: nn.Module, example: Any, watch: Callable[[nn.Module], Any]) -> None:
    """One forward in eval mode of a copy that `watch` has prepared (hooks): meta where possible, else the CPU.

    `watch` is called once per attempt; what it returns, if anything, is a context for the forward.
    The model, its mode and the random state stay as they are.
    Raises GhostsearchError when the forward fails on the CPU too.
    """
    has_data = not any(p.is_meta for p in model.parameters())
    for device in ("meta", "cpu") if has_data else ("meta",):
        replica = (meta_copy(model) if device == "meta" else copied(model).to("cpu")).eval()
        context = watch(replica) or nullcontext()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), context:
                call(replica, moved(example, device))
            return
        # A foreign forward may raise anything; the second failure is reported with its own words.
        except Exception as error:  # noqa: BLE001
            trouble = error
    raise forward_failed(model, example, trouble) from trouble


def forward_failed(model: nn.Module, example: Any, trouble: Exception) -> GhostsearchError:
    """A failed forward in one line, with the way out of the usual mistakes."""
    shown = in_a_line(trouble)
    given, own = (
        {t.dtype for t in values if t.is_floating_point()} for values in (tensors(example), model.parameters())
    )
    way_out = ""
    if len(own | given) > 1:
        kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in own))
        way_out = f"; its parameters are {kinds}: give it in single precision, model.float()"
    elif isinstance(trouble, TypeError) and "missing" in str(trouble):
        way_out = "; a model of several inputs needs an example of them, which only Python can give (docs/convert.md)"
    return GhostsearchError(f"the model's forward fails on the example of shape {_shapes(example)} ({shown}){way_out}")


def _shapes(example: Any) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors(example)) or "without tensors"
