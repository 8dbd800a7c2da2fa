"""From what a model returns to named tensors, and from named arrays back to the class that it returned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

PLAIN_TENSOR = "tensor"
PLAIN_TUPLE = "tuple"
PLAIN_DICT = "dict"


def flatten(value: Any) -> dict[str, Any]:
    """Name every tensor in a model's output; nested ones are dotted ("hidden_states.0"), caches are left out.

    >>> import torch
    >>> list(flatten({"logits": torch.ones(1), "hidden_states": (torch.ones(1), torch.ones(1))}))
    ['logits', 'hidden_states.0', 'hidden_states.1']
    """
    import torch

    if isinstance(value, torch.Tensor):
        return {"output": value}
    if isinstance(value, Mapping):
        return dict(_leaves(value.items()))
    if isinstance(value, tuple | list):
        return {f"output.{name}": leaf for name, leaf in _leaves((str(i), item) for i, item in enumerate(value))}
    raise TypeError(f"a model must return tensors, a tuple or a mapping of them, not {type(value).__name__}")


def _leaves(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    import torch

    for name, item in items:
        if isinstance(item, torch.Tensor):
            yield name, item
        elif isinstance(item, Mapping):
            yield from ((f"{name}.{key}", leaf) for key, leaf in _leaves(item.items()))
        elif isinstance(item, tuple | list):
            yield from ((f"{name}.{key}", leaf) for key, leaf in _leaves((str(i), x) for i, x in enumerate(item)))


def class_name(value: Any) -> str:
    """How to write down the class of a model's output, so that `rebuilder` finds it again."""
    import torch

    if isinstance(value, torch.Tensor):
        return PLAIN_TENSOR
    if isinstance(value, tuple | list):
        return PLAIN_TUPLE
    cls = type(value)
    return PLAIN_DICT if cls is dict else f"{cls.__module__}.{cls.__qualname__}"


def find_class(path: str) -> type | None:
    """The output class written down as `path`, when it is one of transformers'; None otherwise.

    An artifact must not be able to name any code at all to run: only `ModelOutput` and what derives from it counts.
    """
    from importlib import import_module

    module, _, name = path.rpartition(".")
    if not module.startswith("transformers."):
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:  # another version of transformers, which has moved or dropped it
        return None
    from transformers.utils import ModelOutput

    return found if isinstance(found, type) and issubclass(found, ModelOutput) else None


def builder(cls: type) -> Callable[[dict[str, Any]], Any]:
    """How to make an output of this class from its values by name.

    `ModelOutput.__post_init__` goes through the fields several times, which takes longer than everything else around a
    call. Where a class leaves it alone, the same object is made directly.
    """
    from transformers.utils import ModelOutput

    plain = {"__post_init__", "__setitem__", "__setattr__"}
    if any(getattr(cls, name) is not getattr(ModelOutput, name) for name in plain):
        return lambda values: cls(**values)
    set_item, new = OrderedDict.__setitem__, cast(Any, cls.__new__)

    def build(values: dict[str, Any]) -> Any:
        made = new(cls)
        vars(made).update(values)  # fields that are not there are None already, by the class
        for name, value in values.items():
            set_item(made, name, value)
        return made

    return build


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo the dots of `flatten`: numbered children become tuples, named ones dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return {name: _tuples(value) for name, value in tree.items()}


def _tuples(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    children = {name: _tuples(child) for name, child in value.items()}
    return tuple(children.values()) if all(name.isdigit() for name in children) else children
