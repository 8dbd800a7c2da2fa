"""Rounding of weights to 4 bits: to the nearest, or with the least change of a layer's outputs.

| algorithm | source | whose code |
|---|---|---|
| RTN | | Neural Compressor's `quant_tensor` |
| GPTQ | Frantar et al. 2022, arXiv:2210.17323 | Neural Compressor's `GPTQ.fasterquant` |
| HQQ | Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog/ | Neural Compressor's `optimize_weights_proximal` |
| AWQ | Lin et al. 2023, arXiv:2306.00978 | ours: Neural Compressor's searches in blocks of a model in memory |

GPTQ and AWQ need only sums over the inputs of a layer: XᵀX gives the squared error of its outputs exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

#: The number of values of 4 bits.
_LEVELS = 16
# AWQ's grids: exponents of the channels' magnitudes, and shares of a group's range.
_EXPONENTS = tuple(step / 10 for step in range(1, 10))
_SHARES = tuple(1 - step / 20 for step in range(1, 10))
# The search for exponents uses this many outputs of a layer, evenly spread; a sample's error ranks them as well.
_SAMPLE = 512
# For groups whose weights are all equal.
_STEEPEST = 1e8


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounded:
    """Weights (outputs by inputs) as integers from 0 to 15; scales and zero points (outputs by groups) are floats.

    A weight is `(value - zero) * scale`.
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def floats(self) -> torch.Tensor:
        """The weights that the integers stand for."""
        outputs, groups = self.scale.shape
        grouped = self.values.reshape(outputs, groups, -1)
        found: torch.Tensor = (grouped - self.zero.unsqueeze(-1)) * self.scale.unsqueeze(-1)
        return found.reshape(self.values.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Statistics of a layer's inputs: the mean of xᵀx (channels by channels), and each channel's mean magnitude."""

    gram: torch.Tensor
    magnitude: torch.Tensor

    def error(self, change: torch.Tensor) -> float:
        """Return the mean squared change of the outputs, summed over them, for this change of the weights."""
        return float((change @ self.gram).mul_(change).sum())


def statistics_of(batches: Iterable[torch.Tensor]) -> Statistics:
    """Return the statistics of a layer's inputs, whose last axis is the channels'. The inputs themselves are not kept.

    A channel that is 0 throughout counts as one of the usual size, so that its weights are not lost.
    """
    gram = magnitude = torch.zeros(())
    rows = 0
    for batch in batches:
        flat = batch.reshape(-1, batch.shape[-1]).float()
        gram = gram + flat.t() @ flat
        magnitude = magnitude + flat.abs().sum(0)
        rows += len(flat)
    gram, magnitude = gram / rows, magnitude / rows
    dead = magnitude == 0
    gram[dead, dead] = gram.diagonal().mean()
    magnitude[dead] = magnitude.mean()
    return Statistics(gram=gram, magnitude=magnitude)


def to_nearest(weight: torch.Tensor, group: int, *, symmetric: bool, share: float = 1.0) -> Rounded:
    """Round each weight to the nearest integer of its group, whose range is the extremes, or a share of them."""
    from neural_compressor.torch.algorithms.weight_only.utility import quant_tensor

    scheme = "sym" if symmetric else "asym"
    values, scale, zero = quant_tensor(
        weight.detach().clone(), bits=4, group_size=group, scheme=scheme, quantile=share, return_int=True
    )
    middle = _LEVELS // 2
    return Rounded(
        values=values.to(torch.int32) + (middle if symmetric else 0),
        scale=scale.float(),
        zero=torch.full_like(scale, middle) if symmetric else zero.float(),
    )


def by_hqq(weight: torch.Tensor, group: int) -> Rounded:
    """Round with zero points fitted to the weights, fractional ones too, in a norm that forgives outliers. Needs no
    data.
    """
    from neural_compressor.torch.algorithms.weight_only.hqq.optimizer import optimize_weights_proximal

    grouped = weight.detach().float().reshape(-1, group)
    low, high = torch.aminmax(grouped, dim=1, keepdim=True)
    inverse = ((_LEVELS - 1) / (high - low)).clamp_(max=_STEEPEST)
    start = torch.round(-low * inverse)  # as the authors do for 4 bits
    inverse, zero = optimize_weights_proximal(grouped, inverse, start, (0, _LEVELS - 1), axis=1)
    # The result was made in inference mode, and could not be traced.
    inverse, zero = inverse.float().clone(), zero.float().clone()
    values = (grouped * inverse + zero).round_().clamp_(0, _LEVELS - 1)
    return Rounded(
        values=values.to(torch.int32).reshape(weight.shape),
        scale=(1 / inverse).reshape(len(weight), -1),
        zero=zero.reshape(len(weight), -1),
    )


def by_gptq(weight: torch.Tensor, seen: Statistics, group: int, *, symmetric: bool) -> Rounded:
    """Round channel after channel, and compensate the rounding error with the channels that follow.

    Channels with the largest inputs come first, within their groups and among them.

    Raises:
        torch.linalg.LinAlgError: the inputs cannot be solved for.
    """
    from neural_compressor.torch.algorithms.weight_only.gptq import GPTQ

    outputs, channels = weight.shape
    solver = GPTQ(torch.nn.Linear(channels, outputs, device="meta"), weight)
    solver.H = seen.gram.clone()
    solver.quantizer.configure(
        {
            "bits": 4,
            "sym": symmetric,
            "perchannel": True,
            "mse": False,
            "dtype": "int",
            "group_size": group,
            "use_double_quant": False,
            "double_quant_sym": False,
        }
    )
    # A block is a group: the range of a group then follows from weights that earlier groups have changed.
    scale, _, zero, floats = solver.fasterquant(weight.clone(), blocksize=group, groupsize=group, hybrid_order=True)
    grouped = floats.reshape(outputs, -1, group) / scale.unsqueeze(-1) + zero.unsqueeze(-1)
    return Rounded(values=grouped.round_().to(torch.int32).reshape(weight.shape), scale=scale, zero=zero)


def channel_factors(weights: torch.Tensor, seen: Statistics, group: int, *, symmetric: bool) -> torch.Tensor | None:
    """Return AWQ's factors, which multiply the weights of each input channel before rounding and divide the channel,
    with the least change of the outputs; None where no factors are better than none.

    Args:
        weights: outputs by inputs, of all layers with the same input.
    """
    rows = weights[:: -(-len(weights) // _SAMPLE)]
    best, least = None, seen.error(to_nearest(rows, group, symmetric=symmetric).floats() - rows)
    for exponent in _EXPONENTS:
        factors = seen.magnitude.pow(exponent).clamp_(min=1e-4)
        factors /= (factors.max() * factors.min()).sqrt()
        change = to_nearest(rows * factors, group, symmetric=symmetric).floats() / factors - rows
        error = seen.error(change)
        if error < least:
            best, least = factors, error
    return best


def by_awq(
    weight: torch.Tensor, factors: torch.Tensor | None, seen: Statistics, group: int, *, symmetric: bool
) -> Rounded:
    """Return weights times their factors, rounded to the nearest; the range of each group is its best share.

    The result expects inputs that were divided by the factors.
    """
    channels = weight.shape[1]
    gram = seen.gram
    if factors is not None:
        weight, gram = weight * factors, gram / torch.outer(factors, factors)
    blocks = torch.stack([gram[at : at + group, at : at + group] for at in range(0, channels, group)])
    best = to_nearest(weight, group, symmetric=symmetric)
    least = _group_errors(best, weight, blocks)
    for share in _SHARES:
        other = to_nearest(weight, group, symmetric=symmetric, share=share)
        error = _group_errors(other, weight, blocks)
        better = error < least
        best, least = _chosen(better, other, best), torch.minimum(error, least)
    return best


def _group_errors(rounded: Rounded, weight: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return the squared change of its output that each group (outputs by groups) causes alone."""
    change = (rounded.floats() - weight).reshape(len(weight), len(blocks), -1).transpose(0, 1)
    return ((change @ blocks) * change).sum(-1).t()


def _chosen(condition: torch.Tensor, one: Rounded, other: Rounded) -> Rounded:
    group = one.values.shape[1] // one.scale.shape[1]
    return Rounded(
        values=torch.where(condition.repeat_interleave(group, 1), one.values, other.values),
        scale=torch.where(condition, one.scale, other.scale),
        zero=torch.where(condition, one.zero, other.zero),
    )
