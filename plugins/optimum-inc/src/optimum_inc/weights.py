"""Weight compression in a graph: products and tables whose weights are stored as integers.

`rounding` holds the algorithms for 4 bits, and `kernels` the layers that compute with the integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from optimum_core.errors import OptionError
from optimum_core.types import QuantizeConfig
from optimum_inc.calibration import Calibration
from optimum_inc.kernels import Divided, Int4Linear, Int8Embedding, Int8Linear
from optimum_inc.layers import scope
from optimum_inc.products import BLOCK, Product, constant, products_of
from optimum_inc.rounding import Rounded, by_hqq, to_nearest

ALGORITHMS = ("rtn", "awq", "gptq", "hqq")
GROUP_SIZES = (32, 64, 128, 256)
#: Weights that share a scale by default; smaller where that does not divide a layer's channels.
GROUP_SIZE = 64
# Smaller tables are not worth compressing.
_LEAST_TABLE = 4096

_aten = torch.ops.aten


def quantize_embeddings(module: Any, kept: frozenset[str]) -> int:
    """Store the tables of a `torch.fx.GraphModule` as int8; return how many there were."""
    count = 0
    for node in list(module.graph.nodes):
        if node.target is not _aten.embedding.default or node.name in kept:
            continue
        weight = constant(module, node.args[0])
        if weight is None or weight.numel() < _LEAST_TABLE:
            continue
        _replace(module, node, Int8Embedding(weight), node.args[1], f"table_{count}")
        count += 1
    _finish(module)
    return count


def quantize_linears(
    module: Any,
    config: QuantizeConfig,
    kept: frozenset[str],
    who: str,
    batches: Iterable[Sequence[torch.Tensor]] = (),
) -> dict[str, Any]:
    """Store the weights of the products of a `torch.fx.GraphModule` in 8 or 4 bits; return the counts and the methods.

    Layers whose shape the kernel for 4 bits does not support get 8.

    Args:
        batches: inputs of the graph, for algorithms that use the inputs of a layer.

    Raises:
        OptionError: a group size that was stated does not divide a layer's channels.
        ExportError: an algorithm finds no weights for a layer's inputs.
    """
    products = [found for found in products_of(module) if found.node.name not in kept]
    four = _with_four_bits(products, config)
    groups = [_group(found, config, who) if index in four else None for index, found in enumerate(products)]
    facts: dict[str, Any] = {"layers": {"int8": groups.count(None), "int4": len(groups) - groups.count(None)}}
    calibration = Calibration(module, batches, config, who) if config.calibrates else None
    decided: list[tuple[torch.nn.Module, torch.Tensor | None]] = []
    for index, (found, group) in enumerate(zip(products, groups, strict=True)):
        if group is None:
            decided.append((Int8Linear(found.weight, found.bias), None))
            continue
        factors = None
        if calibration is None:
            rounded = _without_data(found.weight, group, config)
        else:
            later = zip(products[index:], groups[index:], strict=True)
            together = [other.weight for other, four in later if four and other.x is found.x]
            rounded, factors = calibration.rounded(found, group, together)
        decided.append((Int4Linear(rounded, found.bias), factors))
    divided = _rewrite(module, products, decided)
    facts["algorithm"] = config.algorithm or "rtn"
    return {**facts, "batches": calibration.batches, "divided": divided} if calibration else facts


def _without_data(weight: torch.Tensor, group: int, config: QuantizeConfig) -> Rounded:
    if config.algorithm == "hqq":
        return by_hqq(weight, group)
    return to_nearest(weight, group, symmetric=config.symmetric is True)


def _rewrite(
    module: Any, products: Sequence[Product], decided: Sequence[tuple[torch.nn.Module, torch.Tensor | None]]
) -> int:
    """Replace products by layers, and divide their inputs by the factors; return the number of divisions."""
    divided: dict[Any, Any] = {}
    for index, (found, (layer, factors)) in enumerate(zip(products, decided, strict=True)):
        x = found.x
        if factors is not None:
            if x not in divided:  # one for all that take it
                divided[x] = _insert(module, found.node, Divided(factors), x, f"divided_{index}")
            x = divided[x]
        _replace(module, found.node, layer, x, f"product_{index}")
    _finish(module)
    return len(divided)


def _with_four_bits(products: list[Product], config: QuantizeConfig) -> set[int]:
    """Return the largest layers, up to the requested ratio; the last layer loses most, and keeps 8 bits."""
    if config.weights != "int4":
        return set()
    order = sorted(range(len(products) - 1), key=lambda index: -products[index].weight.numel())
    return set(order[: round(len(order) * (config.ratio or 1.0))])


def _group(found: Product, config: QuantizeConfig, who: str) -> int | None:
    outputs, channels = found.weight.shape
    if config.group_size is not None:
        if channels % config.group_size:
            why = f"field 'group_size' cannot be {config.group_size}: {scope(found.node)!r} has {channels} channels"
            raise OptionError(who, why, "use a divisor, or leave it out")
        sizes: tuple[int, ...] = (config.group_size,)
    else:
        sizes = tuple(size for size in reversed(GROUP_SIZES) if size <= GROUP_SIZE)
    fitting = [size for size in sizes if channels % size == 0 and outputs % BLOCK == 0]
    return fitting[0] if fitting else None


def _insert(module: Any, before: Any, layer: torch.nn.Module, x: Any, name: str) -> Any:
    module.add_submodule(name, layer)
    with module.graph.inserting_before(before):
        return module.graph.call_module(name, (x,))


def _replace(module: Any, node: Any, layer: torch.nn.Module, x: Any, name: str) -> None:
    node.replace_all_uses_with(_insert(module, node, layer, x, name))
    module.graph.erase_node(node)


def _finish(module: Any) -> None:
    module.graph.eliminate_dead_code()
    module.recompile()
