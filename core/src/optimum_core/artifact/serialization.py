"""Lossless conversion between our frozen dataclasses and JSON.

JSON has no NaN and no infinity, but a failed candidate's errors often are. They are written as `{"$float": "nan"}`,
`{"$float": "inf"}` and `{"$float": "-inf"}`; a "$" at the beginning of a key is doubled.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Set
from typing import Any, TypeVar

import msgspec

from optimum_core.errors import OptionError

T = TypeVar("T")

_FLOAT_KEY = "$float"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_plain(value: Any, who: str, at: str = "$") -> Any:
    """Convert dataclasses, mappings, sequences and scalars to JSON values; sets become sorted lists.

    Args:
        who: the owner of the value, for errors.
        at: the path of the value within the whole, for errors.

    Raises:
        OptionError: JSON cannot represent a value (an array, a path, a key that is not text).
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT_KEY: str(float(value))}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, who, f"{at}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Set):
        return sorted((to_plain(item, who, f"{at}[…]") for item in value), key=json.dumps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, who, at): to_plain(item, who, f"{at}.{key}") for key, item in value.items()}
    raise OptionError(
        who,
        f"the value at {at} is a {type(value).__module__}.{type(value).__qualname__}, which JSON cannot hold",
        "give numbers, text, booleans, None, lists and mappings of those",
    )


def _key(key: object, who: str, at: str) -> str:
    if isinstance(key, str):
        return f"${key}" if key.startswith("$") else key
    raise OptionError(who, f"the mapping at {at} has the key {key!r}", "use text as keys")


def from_plain(tree: Any, kind: type[T]) -> T:
    """Build a `kind` from the result of `to_plain`.

    Raises:
        msgspec.ValidationError: the tree does not fit `kind`; the message names the place.
    """
    return msgspec.convert(_restore(tree), kind, strict=True)


def _restore(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_restore(item) for item in tree]
    if isinstance(tree, dict):
        if tree.keys() == {_FLOAT_KEY} and isinstance(tree[_FLOAT_KEY], str):
            return _NON_FINITE.get(tree[_FLOAT_KEY], tree)
        return {key[1:] if key.startswith("$$") else key: _restore(item) for key, item in tree.items()}
    return tree


def canonical(value: Any, who: str) -> bytes:
    """Return the canonical JSON of a value: sorted keys, no blanks, ASCII. 1, 1.0 and true remain different texts.

    Raises:
        OptionError: as `to_plain`.
    """
    return canonical_json(to_plain(value, who))


def canonical_json(tree: Any) -> bytes:
    """Return the canonical JSON of a result of `to_plain`, or of such JSON after parsing."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
