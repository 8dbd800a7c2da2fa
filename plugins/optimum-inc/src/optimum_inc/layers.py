"""Mapping from nodes of a graph to the layers of the module that it was traced from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimum_core.backend import matching_layers, unwrapped


def scope(node: Any) -> str:
    """Return the dotted name of the innermost module that made a node of `torch.fx`; empty where it is unknown."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return unwrapped([path])[path]


def kept_nodes(graph: Any, patterns: Iterable[str], who: str) -> frozenset[str]:
    """Return the names of the nodes of the layers that `patterns` name: dotted names, each with its sublayers; * is a
    wildcard.

    Raises:
        OptionError: a pattern matches no layer of the graph.
    """
    scopes = {node.name: scope(node) for node in graph.nodes if node.op == "call_function"}
    matching = matching_layers(patterns, scopes.values(), who)
    return frozenset(name for name, path in scopes.items() if path in matching)
