"""The structure of a model's outputs: the containers around its tensors, as its eager call returns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Constant = bool | int | float | str | None
NodeKind = Literal["tensor", "constant", "list", "tuple", "namedtuple", "dict", "output"]

#: The name of a constant None in place of a cache for generation.
CACHE = "cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """One value that a model returns, with the values it contains.

    Attributes:
        kind: "tensor", "constant", or the container; "output" is a class like transformers' `ModelOutput`.
        name: for a tensor, the name of the output; for a container with its own class, module and class; for a cache,
            `CACHE`.
        value: the value of a constant.
        keys: for a dict, an output class or a named tuple, one for each item.
        items: the items of a container, in order.
    """

    kind: NodeKind
    name: str = ""
    value: Constant = None
    keys: tuple[Constant, ...] = ()
    items: tuple[Structure, ...] = ()


def caches(structure: Structure) -> Iterator[str]:
    """Yield the keys of the caches that are left out."""
    for key, item in zip(structure.keys or range(len(structure.items)), structure.items, strict=True):
        if (item.kind, item.name) == ("constant", CACHE):
            yield str(key)
        yield from caches(item)


def from_names(output_class: str, names: tuple[str, ...]) -> Structure:
    """Return the structure for a manifest without one: a single class, with nesting as dots in the outputs' names."""
    if output_class == "tensor":
        return Structure(kind="tensor", name=names[0])
    tree: dict[str, dict[str, object] | str] = {}
    for name in names:
        *parents, leaf = name.split(".")
        node: dict[str, object] = tree  # type: ignore[assignment]
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[leaf] = name
    if output_class == "tuple":
        return _nested(tree["output"])
    return Structure(kind="output", name=output_class, keys=tuple(tree), items=tuple(map(_nested, tree.values())))


def _nested(node: object) -> Structure:
    if isinstance(node, str):
        return Structure(kind="tensor", name=node)
    assert isinstance(node, dict)
    items = tuple(map(_nested, node.values()))
    if all(str(key).isdigit() for key in node):
        return Structure(kind="tuple", items=items)
    return Structure(kind="dict", keys=tuple(node), items=items)
