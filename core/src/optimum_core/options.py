"""Validation of a backend's options: an unknown name or a wrong value is an error before the runtime sees it.

A backend declares its options in a frozen dataclass with defaults; msgspec checks each value against its type::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class AcmeOptions:
        threads: Annotated[int, whole(1, of="threads")] | None = None
        spin: bool = True
        mode: Literal["latency", "throughput"] = "latency"

    options = read_options("acme", AcmeOptions, request.options)

A rule that no type expresses (three numbers in rising order) goes into `__post_init__`, which raises an `OptionError`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from optimum_core.errors import OptionError

if TYPE_CHECKING:
    import msgspec

Options = TypeVar("Options")


def read_options(backend: str, kind: type[Options], options: Mapping[str, Any]) -> Options:
    """Return an instance of the dataclass `kind` with the values that the user passed and defaults for the rest.

    Lists become tuples and strings become paths where the type requires it. Nothing else is converted: "2" and True
    are not accepted as whole numbers, nor 1 as True.

    Raises:
        OptionError: a name is unknown (the message names the nearest one), or a value is not allowed.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class AcmeOptions:
    ...     threads: int = 1
    >>> read_options("acme", AcmeOptions, {"threads": 2})
    AcmeOptions(threads=2)
    >>> read_options("acme", AcmeOptions, {"thread": 2})
    Traceback (most recent call last):
    optimum_core.errors.OptionError: backend 'acme': unknown option 'thread'
      What to do: did you mean 'threads'?
    """
    import msgspec

    who, types = f"backend {backend!r}", get_type_hints(kind, include_extras=True)
    read = {}
    for name, value in options.items():
        if name not in types:
            raise _unknown(who, name, types)
        try:
            read[name] = msgspec.convert(value, types[name], strict=True, dec_hook=_path)
        except msgspec.ValidationError as error:
            raise OptionError(who, f"option {name!r} cannot be {value!r}", f"give {allowed(types[name])}") from error
    return kind(**read)


def no_options(who: str, options: Mapping[str, Any], remedy: str = "it takes none") -> None:
    """Reject all options, for a hook that has none.

    Raises:
        OptionError: an option was passed.
    """
    for name in options:
        raise OptionError(who, f"unknown option {name!r}", remedy)


def whole(least: int, most: int | None = None, *, of: str = "") -> msgspec.Meta:
    """Return the bounds of a whole number, both included; `of` names the thing counted.

    >>> allowed(Annotated[int, whole(1, of="threads")] | None)
    'a whole number of threads, at least 1, or None'
    """
    import msgspec

    bounds = f", at least {least}" if most is None else f" from {least} to {most}"
    return msgspec.Meta(ge=least, le=most, description=f"a whole number{f' of {of}' if of else ''}{bounds}")


def said(words: str, **bounds: Any) -> msgspec.Meta:
    """Return a description of allowed values, worded to follow "give", with `bounds` of msgspec (`gt`, `min_length`).

    >>> allowed(Annotated[float, said("a share above 0, below 1", gt=0, lt=1)])
    'a share above 0, below 1'
    """
    import msgspec

    return msgspec.Meta(description=words, **bounds)


def allowed(kind: Any) -> str:
    """Return a description of the values that a type allows.

    >>> allowed(bool), allowed(dict[str, str])
    ('True or False', 'a mapping of texts to a text each')
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        told = [item.description for item in arguments[1:] if getattr(item, "description", None)]
        return told[0] if told else allowed(arguments[0])
    if origin in (Union, UnionType):
        return ", or ".join(allowed(item) for item in arguments)
    if origin is Literal:
        return f"one of: {', '.join(map(str, arguments))}"
    if origin in (dict, Mapping):
        return f"a mapping of texts to {allowed(arguments[1])} each"
    if origin in (tuple, list):
        return f"a list of which each is {allowed(arguments[0])}"
    return _PLAIN[kind]


_PLAIN = {
    Any: "anything",
    NoneType: "None",
    Path: "a path",
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "a text",
}


def _path(kind: Any, value: Any) -> Any:
    """Return a path, not empty: an empty one means nothing to some runtimes, and the working directory to others."""
    if kind is Path and isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str) and os.fspath(value):
        return Path(value)
    raise ValueError("not a path")


def _unknown(who: str, name: str, known: Mapping[str, Any]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listed = f"use one of: {', '.join(known)}" if known else "it takes none"
    return OptionError(who, f"unknown option {name!r}", f"did you mean {nearest[0]!r}?" if nearest else listed)
