"""Mapping from nodes of a graph to the layers of the module that it was exported from.

Exporters leave the module's names behind: the dynamo exporter in a node's metadata, the TorchScript exporter in its
name ("/module/encoder/layer.0/query/MatMul").
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optimum_core.backend import matching_layers, unwrapped

_METADATA = "pkg.torch.onnx.name_scopes"
# Suffixes that graph rewriting adds to the name of the node that it replaces.
_SUFFIXES = re.compile(r"(/MatMulAddFusion/?|_MatMul|_Add)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Nodes that stay in float, by their names and by their outputs, because rewriting may lose either."""

    names: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()

    def holds(self, node: Any) -> bool:
        """Whether `node` is one of them, or was made from one."""
        name = node.name
        while (shorter := _SUFFIXES.sub("", name)) != name and name not in self.names:
            name = shorter
        return name in self.names or not self.tensors.isdisjoint(node.output)


def name_nodes(graph: Any) -> None:
    """Give each node a unique name: quantizers select nodes by it."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)


def kept_layers(graph: Any, patterns: Iterable[str], who: str, *, is_decoder: bool = False) -> Kept:
    """Return the nodes of the layers that `patterns` name: dotted names, each with its sublayers; * is a wildcard.

    Raises:
        OptionError: a pattern matches no layer of the graph.
    """
    patterns = tuple(patterns)
    if not patterns:
        return Kept()
    scopes = [_scopes(node) for node in graph.node]
    layers = unwrapped(itertools.chain.from_iterable(scopes), is_decoder=is_decoder)
    scopes = [[layers[scope] for scope in found] for found in scopes]
    likeliest = (found[0] for found in scopes if found)
    matching = matching_layers(patterns, itertools.chain.from_iterable(scopes), who, shown=likeliest)
    nodes = [node for node, found in zip(graph.node, scopes, strict=True) if not matching.isdisjoint(found)]
    return Kept(
        names=frozenset(node.name for node in nodes),
        tensors=frozenset(output for node in nodes for output in node.output if output),
    )


def _scopes(node: Any) -> list[str]:
    """Return the dotted name of the innermost module that made `node`, the likelier first where its name is ambiguous;
    empty where there is none.

    The TorchScript exporter writes both the child "0" of a container "head" and a list "head" within it as
    "/head/head.0".
    """
    for entry in node.metadata_props:
        if entry.key == _METADATA:
            scopes = ast.literal_eval(entry.value)
            return [str(scopes[-2])] if len(scopes) > 1 else []
    if not node.name.startswith("/"):
        return []
    parts = node.name.split("/")[1:-1]
    followers = [*parts[1:], ""]
    short = [part for part, follower in zip(parts, followers, strict=False) if not follower.startswith(f"{part}.")]
    return list(dict.fromkeys(".".join(names) for names in (short, parts)))
