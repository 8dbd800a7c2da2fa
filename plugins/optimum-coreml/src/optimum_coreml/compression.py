"""Weight compression with coremltools' passes, and the choices that a configuration leaves to this backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.types import Array, QuantizeConfig
from optimum_core.types.arrays import NDArray
from optimum_coreml.coremltools_adapter import program_of
from optimum_coreml.interface import feature_name
from optimum_coreml.options import CoreMlOptions

FOUR_BITS = ("int4", "uint4", "nf4")
#: Weights of a channel that share a scale in 4 bits by default; a smaller power of two where this does not divide.
GROUP_SIZE = 32
_LEAST_GROUP = 8

#: The levels of NF4, as published with QLoRA (Dettmers et al., 2023): quantiles of a normal distribution, with a zero.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def compress(
    ct: Any, model: Any, config: QuantizeConfig, options: CoreMlOptions, kept: Sequence[str], who: str
) -> tuple[Any, dict[str, Any]]:
    """Return the `MLModel` with its weights compressed as `config` asks, and the choices that were made.

    Raises:
        OptionError: the group size does not divide a layer's channels.
    """
    optimize = ct.optimize.coreml
    chosen: dict[str, Any] = {"weight_threshold": options.weight_threshold}
    joint = options.prune is not None
    if options.prune is not None:
        pruner = optimize.OpMagnitudePrunerConfig(
            target_sparsity=options.prune, weight_threshold=options.weight_threshold
        )
        model = optimize.prune_weights(model, _configuration(optimize, pruner, {}, kept))
        chosen["prune"] = options.prune
    if config.weights == "nf4" or options.palettize is not None:
        palettizer = _palettizer(optimize, config, options)
        found = _configuration(optimize, palettizer, {}, kept)
        model = optimize.palettize_weights(model, found, joint_compression=joint)
        chosen["palettize"] = options.palettize or "nf4"
        if options.quantize_tables:
            linear = optimize.OpLinearQuantizerConfig(
                mode="linear_symmetric", granularity="per_tensor", weight_threshold=options.weight_threshold
            )
            found = _configuration(optimize, linear, {}, kept)
            model = optimize.linear_quantize_weights(model, found, joint_compression=True)
            chosen["quantize_tables"] = True
        return model, chosen
    linear, by_name, group = _linear(optimize, model, config, options, kept, who)
    found = _configuration(optimize, linear, by_name, kept)
    return optimize.linear_quantize_weights(model, found, joint_compression=joint), {**chosen, **group}


def _configuration(optimize: Any, everywhere: Any, by_name: Mapping[str, Any], kept: Sequence[str]) -> Any:
    found = optimize.OptimizationConfig(global_config=everywhere)
    for name, config in {**by_name, **dict.fromkeys(kept)}.items():
        found.set_op_name(name, config)
    return found


def _palettizer(optimize: Any, config: QuantizeConfig, options: CoreMlOptions) -> Any:
    if options.palettize is not None:
        return optimize.OpPalettizerConfig(
            mode="kmeans", nbits=options.palettize, weight_threshold=options.weight_threshold
        )
    return optimize.OpPalettizerConfig(
        mode="custom",
        lut_function=_normal_float,
        enable_per_channel_scale=True,
        weight_threshold=options.weight_threshold,
    )


def _normal_float(weight: NDArray) -> tuple[NDArray, NDArray]:
    """Return the NF4 table and, for each weight (scaled to -1 to 1), the index of the nearest level."""
    levels = np.asarray(_NF4, dtype=np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    return levels.astype(weight.dtype), np.searchsorted(middles, weight.reshape(-1)).astype(np.uint8)


def _linear(
    optimize: Any, model: Any, config: QuantizeConfig, options: CoreMlOptions, kept: Sequence[str], who: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the linear quantization config for all weights, those for single weights by name, and the choices made."""
    symmetric = not config.is_unsigned if config.symmetric is None else config.symmetric
    common = {
        "mode": "linear_symmetric" if symmetric else "linear",
        "dtype": config.weights,
        "weight_threshold": options.weight_threshold,
    }
    if config.weights not in FOUR_BITS or config.group_size == -1:
        granularity = "per_tensor" if config.per_channel is False else "per_channel"
        chosen = {"symmetric": symmetric, "granularity": granularity}
        return optimize.OpLinearQuantizerConfig(granularity=granularity, **common), {}, chosen
    by_name = {}
    for name, length in _channels(model, options.weight_threshold).items():
        if name in kept:
            continue
        size = None if length is None else _group(name, length, config.group_size, who)
        if size is None:  # no power of two divides it: use one scale for each channel
            by_name[name] = optimize.OpLinearQuantizerConfig(granularity="per_channel", **common)
        elif size != (config.group_size or GROUP_SIZE):
            by_name[name] = optimize.OpLinearQuantizerConfig(granularity="per_block", block_size=size, **common)
    size = config.group_size or GROUP_SIZE
    everywhere = optimize.OpLinearQuantizerConfig(granularity="per_block", block_size=size, **common)
    return everywhere, by_name, {"symmetric": symmetric, "group_size": size}


def _channels(model: Any, threshold: int) -> dict[str, int | None]:
    """Return the channel size of each weight that may be compressed, by the constant's name; None: it has none."""
    from coremltools.optimize._utils import select_input_output_channel_axis

    found: dict[str, int | None] = {}
    for op in program_of(model).functions["main"].operations:
        value = op.outputs[0].val if op.op_type == "const" else None
        if not isinstance(value, np.ndarray) or value.ndim < 2 or value.size <= threshold or value.dtype.kind != "f":
            continue
        axis, _ = select_input_output_channel_axis(op)
        found[op.name] = None if axis is None else int(value.shape[axis])
    return found


def _group(name: str, length: int, stated: int | None, who: str) -> int | None:
    """Return the number of weights that share a scale; None: all of a channel.

    Raises:
        OptionError: a size that was stated does not divide the channels.
    """
    if stated is not None:
        if length % stated:
            why = (
                f"field 'group_size' cannot be {stated}: it does not divide the {length} weights of a channel of {name}"
            )
            raise OptionError(who, why, "use a divisor, -1 for whole channels, or leave it out")
        return stated
    size = GROUP_SIZE
    while size >= _LEAST_GROUP and length % size:
        size //= 2
    return size if size >= _LEAST_GROUP else None


def rounded_activations(ct: Any, model: Any, calibration: Iterable[Mapping[str, Array]], kept: Sequence[str]) -> Any:
    """Return the model with activations in 8 bits, their ranges from `calibration`. Written against coremltools 9.0,
    for a Mac; it was not run where this was written.
    """
    optimize = ct.optimize.coreml
    linear = optimize.experimental.OpActivationLinearQuantizerConfig(mode="linear_symmetric")
    found = optimize.OptimizationConfig(global_config=linear)
    samples = [
        {feature_name(name): np.asarray(value).astype(_edge(np.asarray(value))) for name, value in batch.items()}
        for batch in calibration
    ]
    return optimize.experimental.linear_quantize_activations(model, found, samples)


def _edge(array: NDArray) -> Any:
    return np.int32 if array.dtype.kind in "iub" else np.float32
