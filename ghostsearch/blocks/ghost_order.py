"""Which of a convolution's channels become intrinsic in a ghost convolution, and whose ghosts the others are."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ghostsearch.blocks.cheap import Wavelet
from ghostsearch.blocks.ghost_fit import GhostFit, seen
from ghostsearch.blocks.own_conv import first_of_each_group
from ghostsearch.fits.least_squares import by_channel, damped
from ghostsearch.fits.sampled_rows import Samples

CANDIDATES = 128
"""Channels whose maps are looked at together: bounds the memory of the products with all targets."""
ORDER_ROWS = 4096
"""Rows that parents are chosen on: a kernel has few taps, and the work grows with the square of the channels."""


def choose_order(block: Any, own: Tensor, explained: Tensor, weight: Tensor) -> Tensor:
    """Original channel at each place of the block: intrinsic ones, then their ghosts, so that the whole is best
    predicted.

    Every channel's least-squares prediction from every other's map by a cheap kernel gives an explained variance;
    facility location picks the intrinsic channels, linear assignment the ghosts' parents. own: (n,) what each channel's
    own filter explains; explained: what `explained_variance` finds; weight: (n,) importance of an output channel's
    squared error. The choice is combinatorial and made on the host, from n² numbers.
    """
    gain = (explained * weight[None]).clamp_min(0).cpu().numpy()
    n, m, groups = block.out_channels, block.primary.out_channels, block.groups
    chosen = facility_location(gain, (own * weight).cpu().numpy(), m // groups, groups)
    rest = sorted(set(range(n)) - set(chosen))
    per_map = len(block.cheap.weight) // m
    seats = [i for i in chosen for _ in range(per_map)]
    if groups > 1:
        # The intrinsic maps of groups cannot change places, so that the empty seats are the last as they stand.
        seats = seats[: len(rest)]
    rows, columns = linear_sum_assignment(-gain[np.ix_(seats, rest)])
    ghost_at = {int(r): rest[int(c)] for r, c in zip(rows, columns, strict=True)}
    return _packed(chosen, per_map, ghost_at, n)


def seated(channels: int, intrinsic: int, groups: int, per_map: int) -> list[int]:
    """Original channel at each place of a block whose first filters are copied, each ghost in its map's channel group.

    With one group, or ghosts that come out even, that is possible for all; else the last ones take what is left.
    """
    chosen, run = first_of_each_group(channels, intrinsic, groups).tolist(), channels // groups
    rest = [iter(range(start + intrinsic // groups, start + run)) for start in range(0, channels, run)]
    seats = [c // run for c in chosen for _ in range(per_map)][: channels - intrinsic]
    ghosts = [next(rest[group], None) for group in seats]
    left = chain(*rest)
    return chosen + [next(left) if c is None else c for c in ghosts]


def _packed(chosen: list[int], per_map: int, ghost_at: dict[int, int], n: int) -> Tensor:
    """Where s·m > n some seats stay empty; they must be the last ones, which the block cuts off."""
    full = sorted(range(len(chosen)), key=lambda i: -sum(i * per_map + k in ghost_at for k in range(per_map)))
    ghosts = []
    for i in full:
        ghosts += [ghost_at[i * per_map + k] for k in range(per_map) if i * per_map + k in ghost_at]
    return torch.tensor([chosen[i] for i in full] + ghosts)[:n]


def explained_variance(block: Any, full: Tensor, samples: Samples, targets: Sequence[Tensor]) -> Tensor:
    """Variance of target j (columns) that the map of channel i (rows) explains through a cheap kernel, summed
    over the sampled positions: (n, n). full: filters (n, C/groups, *kernel) of the unconstrained fit; targets: per part
    (K, n, *size).
    """
    step = max(1, sum(t[:, 0].numel() for t in targets) // ORDER_ROWS)
    fit, targets = GhostFit.of(block, samples.thinned(step)), [t[::step] for t in targets]
    return torch.cat([_explained(fit, full, at, targets) for at in torch.arange(block.out_channels).split(CANDIDATES)])


def _explained(fit: GhostFit, full: Tensor, at: Tensor, targets: Sequence[Tensor]) -> Tensor:
    n, taps = len(full), fit.kernels.shape[2:]
    q, k = int(np.prod(taps)), len(at)
    double: Any = {"dtype": torch.float64, "device": full.device}
    xx, xt = torch.zeros(k, q, q, **double), torch.zeros(k * q, n, **double)
    sx, st, rows = torch.zeros(k, q, **double), torch.zeros(n, **double), 0
    for part, target in enumerate(targets):
        maps = fit.maps_of(part, full, at)
        views, flat = seen(maps, taps), by_channel(target)
        xx += views @ views.transpose(1, 2)
        xt += views.flatten(0, 1) @ flat.T
        sx += views.sum(-1)
        st += flat.sum(-1)
        rows += flat.shape[1]
    xx -= sx[:, :, None] * sx[:, None] / rows
    cross = xt.reshape(k, q, n) - sx[:, :, None] * st / rows
    if isinstance(fit.block.cheap, Wavelet):
        # Which band a ghost gets depends on its seat; the best band stands for all here.
        bands = fit.block.cheap.filters[: 2 ** len(taps)].flatten(1).double()
        power = torch.einsum("bq,nqp,bp->nb", bands, xx, bands).clamp_min(1e-12)
        return (torch.einsum("bq,nqj->nbj", bands, cross).square() / power[..., None]).amax(1)
    return (cross * torch.linalg.solve(damped(xx, 1e-6), cross)).sum(1)


def facility_location(gain: np.ndarray, own: np.ndarray, per_group: int, groups: int) -> list[int]:
    """Greedy choice of the channels that explain most when each other channel leans on the best one chosen.

    A channel's worth only falls as others are chosen, so that most need not be computed again (lazy evaluation,
    Minoux 1978).
    """
    n = len(own)
    quota = np.full(groups, per_group)
    value = gain.copy()
    np.fill_diagonal(value, own)
    best = np.zeros(n)
    heap = [(-float(w), i) for i, w in enumerate(np.maximum(value, 0).sum(1))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < per_group * groups:
        _, i = heapq.heappop(heap)
        if quota[i * groups // n] == 0:
            continue
        now = float(np.maximum(value[i] - best, 0).sum())
        if heap and (-now, i) > heap[0]:
            heapq.heappush(heap, (-now, i))
            continue
        chosen.append(i)
        quota[i * groups // n] -= 1
        best = np.maximum(best, value[i])
    return sorted(chosen, key=lambda i: i * groups // n)
