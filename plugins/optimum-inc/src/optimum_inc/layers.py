"""Which nodes of a graph belong to which layer of the module that it was traced from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from optimum_core.errors import OptionError

# `export` holds the model as a child of this name; users do not see it.
_WRAPPER = "module"


def scope(node: Any) -> str:
    """The dotted name of the innermost module that made a node of `torch.fx`; empty where it is not known."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return path.removeprefix(_WRAPPER).removeprefix(".") if f"{path}.".startswith(f"{_WRAPPER}.") else path


def kept_nodes(graph: Any, patterns: Iterable[str], who: str) -> frozenset[str]:
    """Names of the nodes of the layers that `patterns` name: dotted names, each with all that lies under it; * is
    anything.

    Raises:
        OptionError: a pattern matches no layer of the graph.
    """
    scopes = {node.name: scope(node) for node in graph.nodes if node.op == "call_function"}
    chosen: set[str] = set()
    for pattern in patterns:
        expression = re.compile(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?")
        found = {name for name, path in scopes.items() if path and expression.fullmatch(path)}
        if not found:
            raise _no_layer(pattern, scopes.values(), who)
        chosen |= found
    return frozenset(chosen)


def _no_layer(pattern: str, scopes: Iterable[str], who: str) -> OptionError:
    names = sorted({path for path in scopes if path})
    if not names:
        return OptionError(who, f"'exclude' names {pattern!r}, and the file names no layers", "export the model again")
    some = ", ".join(names[:: max(1, len(names) // 8)][:8])
    return OptionError(who, f"'exclude' names {pattern!r}, which is no layer of this model", f"there are, e.g., {some}")
