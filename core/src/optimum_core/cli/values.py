"""Parsing of typed values and formatting of shown ones: shapes, options, ages, sizes, times."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

_PAIR = re.compile(r"([1-9][0-9]*)[xX×]([1-9][0-9]*)")
_AXIS = re.compile(r"([A-Za-z_][\w.]*)=([1-9][0-9]*)")
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MINUTE = 60.0


def not_empty(text: str) -> str:
    """Return a text as it is.

    Raises:
        ValueError: it is empty.
    """
    if not text.strip():
        raise ValueError("it is empty")
    return text


def parse_shapes(text: str) -> list[tuple[int, int] | dict[str, int]]:
    """Parse comma-separated shapes: batch x sequence, or named axes separated by blanks.

    Raises:
        ValueError: a shape is neither.

    >>> parse_shapes("1x16, 8x128")
    [(1, 16), (8, 128)]
    >>> parse_shapes("batch=1 height=224")
    [{'batch': 1, 'height': 224}]
    """
    return [_shape(part.strip()) for part in text.split(",")]


def _shape(part: str) -> tuple[int, int] | dict[str, int]:
    if pair := _PAIR.fullmatch(part):
        return int(pair[1]), int(pair[2])
    named = [_AXIS.fullmatch(word) for word in part.split()]
    if not named or not all(named):
        raise ValueError(f"{part!r} is no shape; write 1x16,8x128 or 'batch=1 height=224'")
    return {axis[1]: int(axis[2]) for axis in named if axis}


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; a value that is JSON (4, true, [1, 2]) is parsed as such, any other is text.

    Raises:
        ValueError: a pair has no key, or a key occurs twice.

    >>> parse_options(["threads=4", "level=all", "spin=false"])
    {'threads': 4, 'level': 'all', 'spin': False}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"{pair!r} is not key=value")
        if key.strip() in options:
            raise ValueError(f"{key.strip()!r} is given twice")
        options[key.strip()] = _json_or_text(value.strip())
    return options


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=str)  # NaN and Infinity are no JSON, and no option takes them
    except ValueError:
        return value


def parse_age(text: str) -> timedelta:
    """Parse a duration: a number and s, m, h, d or w.

    Raises:
        ValueError: it is no duration.

    >>> parse_age("7d")
    datetime.timedelta(days=7)
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no length of time; write a number and s, m, h, d or w, such as 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError as error:
        raise ValueError(f"{text!r} is longer than a calendar holds") from error


def size_words(size: int) -> str:
    """Return bytes as text, in the largest unit that keeps the number above 1.

    >>> size_words(999), size_words(1536), size_words(3 * 2**30)
    ('999 B', '1.5 KiB', '3.0 GiB')
    """
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1023.95 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{size} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def latency_words(milliseconds: float) -> str:
    """Return a latency as text, with three significant digits.

    >>> latency_words(0.0421), latency_words(3.2149), latency_words(1234.5)
    ('42.1 µs', '3.21 ms', '1.23 s')
    """
    for factor, unit in ((1e3, "µs"), (1.0, "ms")):
        if milliseconds * factor < 999.5:
            return f"{three_digits(milliseconds * factor)} {unit}"
    return f"{three_digits(milliseconds / 1e3)} s"


def three_digits(value: float) -> str:
    """Return a number as text, with three significant digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def seconds_words(seconds: float) -> str:
    """Return a duration as text.

    >>> seconds_words(0.04), seconds_words(12.34), seconds_words(75)
    ('40 ms', '12.3 s', '1:15 min')
    """
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"


def age_words(age: timedelta) -> str:
    """Return an age as text, in the largest whole unit.

    >>> age_words(timedelta(hours=50)), age_words(timedelta(seconds=-1))
    ('2 days ago', 'just now')
    """
    seconds = age.total_seconds()
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if count := int(seconds // length) if seconds > 0 else 0:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun in singular or plural.

    >>> count(1, "case"), count(2, "case"), count(0, "entry", "entries")
    ('1 case', '2 cases', '0 entries')
    """
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"
