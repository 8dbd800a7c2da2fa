"""Options that a user states for one backend: an unknown name or a wrong value is an error before its runtime sees it.

A backend has a frozen dataclass of its options, with defaults, and says of each what it may be::

    CHECKS = {"threads": optional(whole(1, of="threads")), "spin": flag(), "mode": one_of("latency", "throughput")}
    options = read_options("acme", AcmeOptions, CHECKS, request.options)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from optimum_core.errors import OptionError

Options = TypeVar("Options")


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What an option may be.

    Attributes:
        right: whether a value is allowed.
        allowed: in words, what is: it stands after "give".
        convert: what the option becomes of an allowed value.
    """

    right: Callable[[Any], bool]
    allowed: str
    convert: Callable[[Any], Any] = _same


def read_options(backend: str, kind: type[Options], checks: Mapping[str, Check], options: Mapping[str, Any]) -> Options:
    """An instance of `kind` with what the user stated, and its defaults for the rest.

    Args:
        checks: one for every option that there is, by name; where there is none, `kind` may be `dict`.

    Raises:
        OptionError: a name is unknown (the message names the nearest one), or a value is not allowed.

    >>> read_options("acme", dict, {"threads": whole(1)}, {"thread": 2})
    Traceback (most recent call last):
    optimum_core.errors.OptionError: backend 'acme': unknown option 'thread'
      What to do: did you mean 'threads'?
    """
    who = f"backend {backend!r}"
    for name, value in options.items():
        check = checks.get(name)
        if check is None:
            nearest = difflib.get_close_matches(name, checks, n=1, cutoff=0.5)
            listed = f"use one of: {', '.join(checks)}" if checks else "it takes none"
            remedy = f"did you mean {nearest[0]!r}?" if nearest else listed
            raise OptionError(who, f"unknown option {name!r}", remedy)
        if not check.right(value):
            raise OptionError(who, f"option {name!r} cannot be {value!r}", f"give {check.allowed}")
    return kind(**{name: checks[name].convert(value) for name, value in options.items()})


def optional(check: Check) -> Check:
    """The same, or None."""
    return replace(
        check,
        right=lambda value: value is None or check.right(value),
        allowed=f"{check.allowed}, or None",
        convert=lambda value: None if value is None else check.convert(value),
    )


def flag() -> Check:
    """True or False, and nothing that only counts as one of them."""
    return Check(right=lambda value: isinstance(value, bool), allowed="True or False")


def whole(least: int, most: int | None = None, *, of: str = "") -> Check:
    """A whole number within bounds, both included; `of` says of what."""

    def right(value: Any) -> bool:
        counts = isinstance(value, int) and not isinstance(value, bool)
        return counts and value >= least and (most is None or value <= most)

    bounds = f", at least {least}" if most is None else f" from {least} to {most}"
    return Check(right=right, allowed=f"a whole number{f' of {of}' if of else ''}{bounds}")


def one_of(*allowed: Any) -> Check:
    """One of these; 1 is not True."""

    def right(value: Any) -> bool:
        return any(type(value) is type(item) and value == item for item in allowed)

    return Check(right=right, allowed=f"one of: {', '.join(map(str, allowed))}")


def text() -> Check:
    """A text."""
    return Check(right=lambda value: isinstance(value, str), allowed="a text")


def path() -> Check:
    """A path, not empty: an empty one means nothing to some runtimes, and the working directory to others."""
    return Check(
        right=lambda value: isinstance(value, str | os.PathLike) and bool(os.fspath(value)),
        allowed="a path",
        convert=Path,
    )


def mapping_of(check: Check | None = None, *, what: str) -> Check:
    """A mapping by texts, of values that `check` allows; `what` says of what to what: "axes to lengths"."""

    def right(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(isinstance(key, str) and (check is None or check.right(item)) for key, item in value.items())

    convert = _same if check is None else check.convert
    return Check(
        right=right,
        allowed=f"a mapping of {what}",
        convert=lambda value: {key: convert(item) for key, item in value.items()},
    )
