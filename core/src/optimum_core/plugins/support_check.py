"""Type check of the `Support` that a probe returns: a wrong type is the plugin's fault, and must not appear later as an
error of the code that reads it."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from optimum_core.errors import OptionError
from optimum_core.plugins.discovery import show
from optimum_core.types import Offer, Support
from optimum_core.types.quantization import CACHES, Scheme
from optimum_core.types.support import PRECISIONS

_WORDS = {str: "text", int: "whole number", float: "number", bool: "True or False", type(None): "None"}
_DEVICE = re.compile(r"[^\s:]+(:[^\s:]+)*")
_TEXTS = (
    "exports",
    "routes",
    "levels",
    "named_levels",
    "loads",
    "stateful",
    "build_options",
)
#: Where the fields, their types and their values are written.
_PAGE = "docs/fields.md"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """A value in a probe's result that has the wrong type, or no use.

    Attributes:
        field: its path, such as "offers[0].loads".
        expected: description of the expected type.
        is_tuple: whether that is a tuple.
    """

    field: str
    value: object
    expected: str
    is_tuple: bool = False

    @property
    def why(self) -> str:
        """The reason, for an error about the plugin."""
        return f"its probe's answer has {self.field} = {show(self.value)} where {self.expected} is expected"

    @property
    def remedy(self) -> str:
        """The correction that its author has to make."""
        if self.is_tuple:
            if isinstance(self.value, list | set | frozenset):
                return f"write {tuple(self.value)!r}" if len(self.value) < 5 else "make a tuple of it"
            if isinstance(self.value, str) or dataclasses.is_dataclass(self.value):
                return f"write a tuple of one, with its comma: ({show(self.value)},)"
        return f"compare it with the tables of {_PAGE}"


def misfit(support: Support) -> Misfit | None:
    """Return the first field of a probe's result with a wrong type, a device that no target can name, an unknown word
    or levels that nothing would use; or None."""
    wrong_types = _misfits(support, Support, "")
    useless = chain(_unnamable_devices(support), _unknown_words(support), _idle_levels(support))
    return next(wrong_types, None) or next(useless, None)


def _unnamable_devices(support: Support) -> Iterator[Misfit]:
    """Yield devices of offers that cannot be written behind the colon of a target."""
    for index, offer in enumerate(support.offers):
        if not _DEVICE.fullmatch(offer.device):
            expected = "a device that a target can name, such as 'cpu' or 'cuda:0',"
            yield Misfit(field=f"offers[{index}].device", value=offer.device, expected=expected)


def _unknown_words(support: Support) -> Iterator[Misfit]:
    """Yield words of offers that core does not know, such as schemes, and empty texts: nothing would ask for them."""
    for index, offer in enumerate(support.offers):
        where = f"offers[{index}]"
        for name in _TEXTS:
            if not all(item.strip() for item in getattr(offer, name)):
                yield Misfit(field=f"{where}.{name}", value=getattr(offer, name), expected="no empty text")
        for path, schemes in _schemes_of(offer):
            for scheme in schemes:
                if not _is_scheme(scheme):
                    expected = "the name of a scheme, such as 'static-int8' or 'weight-only-int4',"
                    yield Misfit(field=f"{where}.{path}", value=scheme, expected=expected)
        yield from _unknown_choices(offer, where)


def _unknown_choices(offer: Offer, where: str) -> Iterator[Misfit]:
    """Yield words that are not in the list of their field."""
    if not offer.precisions:
        yield Misfit(field=f"{where}.precisions", value=(), expected="at least one precision")
    for name, known in _choices(offer):
        for item in getattr(offer, name):
            if item not in known:
                yield Misfit(field=f"{where}.{name}", value=item, expected=_one_of(known))


def _choices(offer: Offer) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the fields of an offer whose words are of a list, with that list."""
    yield "precisions", PRECISIONS
    yield "stateful_caches", CACHES
    yield "crash_prone", (*offer.precisions, *offer.runs)


def _schemes_of(offer: Offer) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in ("schemes", "runs", "stateful_schemes"):
        yield name, getattr(offer, name)
    for index, step in enumerate(offer.quantizes):
        yield f"quantizes[{index}].schemes", step.schemes


def _is_scheme(name: str) -> bool:
    try:
        Scheme.parse(name)
    except OptionError:
        return False
    return True


def _idle_levels(support: Support) -> Iterator[Misfit]:
    """Yield levels of offers that neither optimize within a format nor run the eager model: a conversion has none."""
    for index, offer in enumerate(support.offers):
        for name in ("levels", "named_levels"):
            if getattr(offer, name) and not (offer.live or any(item.takes == item.gives for item in offer.optimizes)):
                expected = "no level (nothing in its `optimizes` gives the format that it takes)"
                yield Misfit(field=f"offers[{index}].{name}", value=getattr(offer, name), expected=expected)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _misfits(value: Any, hint: Any, where: str) -> Iterator[Misfit]:
    if not _fits(value, hint):
        yield Misfit(field=where, value=value, expected=_words(hint), is_tuple=get_origin(hint) is tuple)
    elif dataclasses.is_dataclass(hint):
        for name, inner in _hints(hint).items():  # type: ignore[arg-type]
            yield from _misfits(getattr(value, name), inner, f"{where}.{name}" if where else name)
    elif get_origin(hint) is tuple:
        for index, item in enumerate(value):
            yield from _misfits(item, get_args(hint)[0], f"{where}[{index}]")
    elif get_origin(hint) is Mapping:
        for key, item in value.items():
            for part, inner in zip((key, item), get_args(hint), strict=True):
                yield from _misfits(part, inner, f"{where}[{key!r}]")


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value itself has the type of a hint, regardless of its items."""
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, item) for item in get_args(hint))
    if origin is Callable or hint is Callable:
        return callable(value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


def _words(hint: Any) -> str:
    origin, items = get_origin(hint), get_args(hint)
    if origin is tuple:
        return f"a tuple of {_name(items[0])}s"
    if origin is Mapping:
        return f"a mapping of {_name(items[0])}s to {_name(items[1])}s"
    if origin is Literal:
        return _one_of(items)
    if origin in (types.UnionType, Union):
        return " or ".join(map(_words, items))
    if origin is Callable:
        return "a function"
    name = _name(hint)
    return name if hint in (bool, type(None)) else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _one_of(items: Sequence[object]) -> str:
    return f"one of {', '.join(map(repr, items))}" if items else "nothing"


def _name(hint: Any) -> str:
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))
