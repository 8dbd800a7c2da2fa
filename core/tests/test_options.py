"""What every backend checks its options with: no wrong value reaches a runtime, and no right one is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.options import Check, flag, mapping_of, one_of, optional, path, read_options, text, whole


@dataclass(frozen=True, kw_only=True)
class Acme:
    threads: int | None = None
    spin: bool = True
    mode: str = "latency"
    level: int = 1
    note: str = ""
    cache: Path | None = None
    lengths: dict[str, int] = field(default_factory=dict)


CHECKS = {
    "threads": optional(whole(1, of="threads")),
    "spin": flag(),
    "mode": one_of("latency", "throughput"),
    "level": whole(0, 5),
    "note": text(),
    "cache": optional(path()),
    "lengths": mapping_of(whole(1), what="axes to lengths"),
}


def read(**options: Any) -> Acme:
    return read_options("acme", Acme, CHECKS, options)


def test_what_is_not_stated_has_its_default() -> None:
    assert read() == Acme()
    assert read(threads=2, cache="here") == Acme(threads=2, cache=Path("here"))
    assert read(threads=None, cache=None) == Acme()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("threads", 0, "give a whole number of threads, at least 1, or None"),
        ("threads", True, "give a whole number of threads, at least 1, or None"),
        ("threads", 2.0, "give a whole number of threads, at least 1, or None"),
        ("spin", 1, "give True or False"),
        ("spin", None, "give True or False"),
        ("mode", "fast", "give one of: latency, throughput"),
        ("level", 6, "give a whole number from 0 to 5"),
        ("note", None, "give a text"),
        ("cache", "", "give a path, or None"),
        ("cache", b"bytes", "give a path, or None"),
        ("lengths", {"batch": 0}, "give a mapping of axes to lengths"),
        ("lengths", {1: 1}, "give a mapping of axes to lengths"),
        ("lengths", ["batch"], "give a mapping of axes to lengths"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(name: str, value: Any, remedy: str) -> None:
    with pytest.raises(OptionError, match=f"backend 'acme': option '{name}' cannot be") as caught:
        read(**{name: value})
    assert caught.value.remedy == remedy


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'thread'") as caught:
        read(thread=2)
    assert caught.value.remedy == "did you mean 'threads'?"
    with pytest.raises(OptionError, match="unknown option 'zzz'") as caught:
        read(zzz=2)
    assert caught.value.remedy == "use one of: threads, spin, mode, level, note, cache, lengths"


def test_one_is_not_true() -> None:
    assert not one_of(1, 2).right(True) and not one_of(True).right(1)
    assert one_of(1, 2).right(2)


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=3), st.binary())


@given(least=st.integers(-2, 3), most=st.integers(3, 8), value=ANYTHING)
def test_whole_numbers_keep_their_bounds(least: int, most: int, value: Any) -> None:
    right = type(value) is int and least <= value <= most
    assert whole(least, most).right(value) == right
    assert optional(whole(least, most)).right(value) == (right or value is None)


@given(value=st.dictionaries(ANYTHING.filter(lambda key: key == key), ANYTHING, max_size=3))
def test_mappings_are_checked_key_by_key(value: dict[Any, Any]) -> None:
    double = Check(right=lambda item: type(item) is int, allowed="a number", convert=lambda item: 2 * item)
    check = mapping_of(double, what="names to numbers")
    right = all(type(key) is str and type(item) is int for key, item in value.items())
    assert check.right(value) == right
    if right:
        assert check.convert(value) == {key: 2 * item for key, item in value.items()}
