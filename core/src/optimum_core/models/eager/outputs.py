"""Conversion of a model's output to named tensors and the structure around them, and of named arrays back to it."""

from __future__ import annotations

import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from types import MemberDescriptorType, NoneType
from typing import Any, cast
from weakref import WeakValueDictionary

from optimum_core.artifact.structure import CACHE, Structure
from optimum_core.errors import SourceError

Build = Callable[[Mapping[str, Any]], Any]

_CONSTANTS = (bool, int, float, str, NoneType)
_STRUCT_SEQUENCES = "torch.return_types"
#: Output classes of models in this process; classes defined inside functions cannot be imported by name.
_SEEN: WeakValueDictionary[str, type] = WeakValueDictionary()


class Answer(dict[str, Any]):
    """Named outputs that read like transformers' `ModelOutput`: by name, by attribute, by position.

    >>> answer = Answer(logits=[1.0])
    >>> answer.logits is answer["logits"] is answer[0]
    True
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return Answer, (dict(self),)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no output {name!r}; there are {', '.join(self)}") from None

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values in order."""
        return tuple(self.values())


def as_array(tensor: Any) -> Any:
    """Return a tensor as an array, which shares its memory where it can: parts of a conjugate have their signs to
    come."""
    return tensor.detach().resolve_conj().resolve_neg().numpy()


class Outputs(dict[str, Any]):
    """A model's outputs by name.

    Attributes:
        structure: the containers and constants around them; None: they cannot be given back.
        written: the inputs that the call changed in place.
    """

    structure: Structure | None = None
    written: frozenset[str] = frozenset()

    @classmethod
    def of(cls, value: Any) -> Outputs:
        """Return the outputs that a model has returned, as arrays of their own."""
        made = cls({name: as_array(tensor).copy() for name, tensor in flatten(value).items()})
        with suppress(SourceError):
            made.structure = structure_of(value, "")
        return made


def flatten(value: Any) -> dict[str, Any]:
    """Name every tensor in a model's output; nested ones are dotted ("hidden_states.0"), caches are left out.

    >>> import torch
    >>> list(flatten({"logits": torch.ones(1), "hidden_states": (torch.ones(1), torch.ones(1))}))
    ['logits', 'hidden_states.0', 'hidden_states.1']
    """
    import torch

    if not isinstance(value, torch.Tensor | Mapping | tuple | list):
        raise TypeError(f"a model must return tensors, a tuple or a mapping of them, not {type(value).__name__}")
    found: dict[str, Any] = {}
    for name, tensor in _leaves(value, "" if isinstance(value, Mapping) else "output"):
        while name in found:  # {"a.b": …, "a": {"b": …}}
            name += "_"
        found[name] = tensor
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path or "output", value.detach() if value.requires_grad else value  # a parameter of the model
        return
    for key, item in _children(value):
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, tuple | list) else ()


def check_held(value: Any, who: str) -> None:
    """Refuse tensors in a model's output that no array can hold.

    Raises:
        SourceError: one is sparse, nested or quantized, or of a type that numpy lacks, such as bfloat16.
    """
    for name, tensor in flatten(value).items():
        if not _is_held(tensor):
            kind = ", ".join(str(part).removeprefix("torch.") for part in (tensor.dtype, tensor.layout))
            why = f"{name!r} of its outputs is a tensor that no array can hold ({kind})"
            raise SourceError(who, why, "return it dense and in a type of numpy: its to_dense(), dequantize(), float()")


def _is_held(tensor: Any) -> bool:
    import torch

    if tensor.layout is not torch.strided or tensor.is_nested:
        return False
    try:
        tensor.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError):  # a type that numpy lacks
        return False
    return True


def structure_of(value: Any, who: str) -> Structure:
    """Return the containers and constants around the tensors of a model's output.

    Args:
        value: the output.
        who: the model's name in errors.

    Raises:
        SourceError: there is no tensor in it, or a value that cannot be restored.
    """
    tensors = flatten(value) if isinstance(value, Mapping | tuple | list) or hasattr(value, "layout") else {}
    found = _structure(value, iter(tensors), "its output", who)
    if not tensors:
        what = "" if _container(value) else f", but a {type(value).__name__}"
        raise SourceError(who, f"it returns no tensor{what}", "let forward return a tensor, or containers of them")
    return found


def _structure(value: Any, names: Iterator[str], place: str, who: str) -> Structure:
    import torch

    if isinstance(value, torch.Tensor):
        return Structure(kind="tensor", name=next(names))
    if type(value) in _CONSTANTS:
        return Structure(kind="constant", value=value)
    if any(cls.__name__.endswith("Cache") for cls in type(value).__mro__):  # caches for generation are left out
        return Structure(kind="constant", name=CACHE)
    container = _container(value)
    if container is None:
        raise SourceError(
            who,
            f"{place} is a {type(value).__module__}.{type(value).__qualname__}, which an accelerated model cannot give "
            "back",
            "return tensors, numbers, text, None, and lists, tuples, named tuples, dicts or transformers' ModelOutput",
        )
    children = list(_children(value))
    if container.keys:
        children = list(zip(container.keys, (item for _, item in children), strict=True))
    for key, _ in children:
        if type(key) not in _CONSTANTS:
            why = f"{place} has the key {key!r} of {type(key).__name__}, which an accelerated model cannot give back"
            raise SourceError(who, why, "use text or numbers as keys")
    items = tuple(_structure(item, names, f"{place}[{key!r}]", who) for key, item in children)
    keys = () if container.kind in ("list", "tuple") else tuple(key for key, _ in children)
    return Structure(kind=container.kind, name=container.name, keys=keys, items=items)


def _container(value: Any) -> Structure | None:
    """Return the kind of a container, with its class's name and, if the items do not hold them, its fields."""
    cls = type(value)
    if cls is list or cls is tuple:
        return Structure(kind="list" if cls is list else "tuple")
    if cls is dict:
        return Structure(kind="dict")
    path = f"{cls.__module__}.{cls.__qualname__}"
    if cls is OrderedDict:
        return Structure(kind="dict", name=path)
    fields = _fields(cls) if issubclass(cls, tuple) else ()
    if fields:
        _SEEN[path] = cls
        return Structure(kind="namedtuple", name=path, keys=fields)
    if issubclass(cls, Answer) or (issubclass(cls, OrderedDict) and is_dataclass(cls)):
        _SEEN[path] = cls
        return Structure(kind="output", name=path)
    return None


def _fields(cls: type) -> tuple[str, ...]:
    """Return the fields of a named tuple class, also of torch's own (`torch.max` along an axis); none for others."""
    if cls.__module__ == _STRUCT_SEQUENCES:
        return tuple(name for name, item in vars(cls).items() if isinstance(item, MemberDescriptorType))
    return tuple(getattr(cls, "_fields", ()))


def agreed(who: str, outputs: Iterable[Any]) -> Structure:
    """Return the one structure of outputs of several calls.

    Raises:
        SourceError: the outputs differ between calls in more than their tensors.
    """
    first, *others = [structure_of(value, who) for value in outputs]
    for other in others:
        require_alike(who, first, other)
    return first


def require_alike(who: str, first: Structure, other: Structure) -> None:
    """Refuse a structure that is another than the first.

    Raises:
        SourceError: they differ in more than their tensors.
    """
    if repr(other) != repr(first):  # 1 is not True, and nan is nan
        why = f"what it returns depends on the call: {_difference(first, other, 'its output')}"
        raise SourceError(who, why, "return a tensor in its place, or leave it out of what forward returns")


def _difference(one: Structure, other: Structure, place: str) -> str:
    if one.kind == other.kind and one.keys == other.keys and len(one.items) == len(other.items):
        keys = one.keys or range(len(one.items))
        for key, a, b in zip(keys, one.items, other.items, strict=True):
            if repr(a) != repr(b):
                return _difference(a, b, f"{place}[{key!r}]")
    return f"{place} is {_told(one)}, and {_told(other)} in another"


def _told(structure: Structure) -> str:
    if structure.kind == "constant":
        return repr(structure.value)
    return f"a {structure.kind}" + (f" of {len(structure.items)}" if structure.items else "")


def build_from(structure: Structure, *, own_classes: bool, in_memory: bool) -> Build:
    """Return a function that builds a model's output from tensors by name.

    Args:
        own_classes: whether output classes of transformers are restored; else `Answer` replaces them.
        in_memory: whether the model itself is in this process, so that its own output classes are trusted.
    """
    names = tuple(item.name for item in structure.items if item.kind == "tensor")
    if structure.kind in ("dict", "output") and structure.keys == names:  # a flat structure
        return _assembler(structure, own_classes=own_classes, in_memory=in_memory)
    return _build(structure, own_classes, in_memory)


def _build(structure: Structure, own_classes: bool, in_memory: bool) -> Build:
    if structure.kind == "tensor":
        name = structure.name
        return lambda values: values[name]
    if structure.kind == "constant":
        constant = structure.value
        return lambda values: constant
    assemble = _assembler(structure, own_classes=own_classes, in_memory=in_memory)
    builds = [_build(item, own_classes, in_memory) for item in structure.items]
    if structure.kind not in ("dict", "output"):
        return lambda values: assemble([build(values) for build in builds])
    pairs = list(zip(structure.keys, builds, strict=True))
    return lambda values: assemble({key: build(values) for key, build in pairs})


def _assembler(structure: Structure, *, own_classes: bool, in_memory: bool) -> Callable[[Any], Any]:
    """Return a function that builds the container from a list or a dict of finished items."""
    if structure.kind == "output":
        cls = _output_class(structure.name, in_memory=in_memory) if own_classes else None
        return builder(cls) if cls else Answer
    if structure.kind == "namedtuple":
        return _tuple_builder(structure)
    if structure.kind == "dict":
        return OrderedDict if structure.name else lambda values: values
    return tuple if structure.kind == "tuple" else lambda values: values


def _tuple_builder(structure: Structure) -> Callable[[list[Any]], Any]:
    """Return a builder of named tuples, of the already imported class of that name or of a new one like it.

    No module is imported for it, and no code of the class runs.
    """
    fields = tuple(map(str, structure.keys))
    module, _, name = structure.name.rpartition(".")
    found = _SEEN.get(structure.name) or getattr(sys.modules.get(module), name, None)
    if isinstance(found, type) and issubclass(found, tuple) and _fields(found) == fields:
        cls = found
        if module == _STRUCT_SEQUENCES:
            return cls
        return lambda values: tuple.__new__(cls, values)
    made = namedtuple(name if name.isidentifier() else "Output", fields, rename=True)  # type: ignore[misc]
    return made._make


def _output_class(path: str, *, in_memory: bool) -> type | None:
    """Return the class of an output: one of transformers, or if the model is in this process, the model's own."""
    if found := find_class(path):
        return found
    module, _, name = path.rpartition(".")
    own = (_SEEN.get(path) or getattr(sys.modules.get(module), name, None)) if in_memory else None
    return own if isinstance(own, type) and issubclass(own, OrderedDict) and is_dataclass(own) else None


def find_class(path: str) -> type | None:
    """Return the output class recorded as `path` if it is one of transformers or of this package; None otherwise.

    An artifact must not be able to name arbitrary code to run: only `ModelOutput` and its subclasses are accepted.
    """
    from importlib import import_module

    module, _, name = path.rpartition(".")
    if not module.startswith(("transformers.", "optimum_core.models.")):
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:  # another version of transformers, which has moved or dropped it
        return None
    from transformers.utils import ModelOutput

    return found if isinstance(found, type) and issubclass(found, ModelOutput) else None


def builder(cls: type) -> Callable[[dict[str, Any]], Any]:
    """Return a function that makes an output of this class from its values by name.

    `ModelOutput.__post_init__` iterates over the fields several times, which takes longer than everything else around a
    call. If a class does not override it, the same object is made directly.
    """
    if not _is_plain(cls):
        return lambda values: cls(**values)
    set_item, new = OrderedDict.__setitem__, cast(Any, cls.__new__)

    def build(values: dict[str, Any]) -> Any:
        made = new(cls)
        attributes = made.__dict__  # absent fields are None already, by the class's defaults
        for name, value in values.items():
            attributes[name] = value
            set_item(made, name, value)
        return made

    return build


def plain_class(structure: Structure, names: tuple[str, ...], *, in_memory: bool) -> type | None:
    """Return the class of an output with a tensor for each name, and nothing else, whose objects may be made without
    its own code; None: it is something else.

    Args:
        structure: of the output.
        names: of the tensors, in their order.
        in_memory: as in `build_from`.
    """
    tensors = tuple(item.name for item in structure.items if item.kind == "tensor")
    if structure.kind != "output" or not structure.keys == tensors == names:
        return None
    cls = _output_class(structure.name, in_memory=in_memory)
    return cls if cls is not None and _is_plain(cls) else None


def _is_plain(cls: type) -> bool:
    """Whether a class of outputs has no code of its own for being made or set."""
    utils = sys.modules.get("transformers.utils")  # else it is none of transformers' classes
    own = {"__post_init__", "__setitem__", "__setattr__"}
    return utils is not None and all(getattr(cls, name, None) is getattr(utils.ModelOutput, name) for name in own)
