"""The check of options that all backends use: no wrong value reaches a runtime, and no right one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.options import allowed, no_options, read_options, said, whole


@dataclass(frozen=True, kw_only=True)
class Acme:
    threads: Annotated[int, whole(1, of="threads")] | None = None
    spin: bool = True
    mode: Literal["latency", "throughput"] = "latency"
    level: Annotated[int, whole(0, 5)] = 1
    note: str = ""
    cache: Path | None = None
    lengths: Annotated[Mapping[str, Annotated[int, whole(1)]], said("a mapping of axes to lengths")] = field(
        default_factory=dict
    )
    names: tuple[str, ...] = ()


def read(**options: Any) -> Acme:
    return read_options("acme", Acme, options)


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
        ("names", "ab", "give a list of which each is a text"),
        ("names", None, "give a list of which each is a text"),
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
    assert caught.value.remedy == "use one of: threads, spin, mode, level, note, cache, lengths, names"


def test_what_is_written_otherwise_is_converted() -> None:
    assert read(names=["a", "b"]).names == ("a", "b")
    assert read(lengths={"batch": 2}).lengths == {"batch": 2}


def test_a_hook_without_options_refuses_all() -> None:
    no_options("backend 'acme'", {})
    with pytest.raises(OptionError, match="backend 'acme': unknown option 'level'"):
        no_options("backend 'acme'", {"level": 1}, "quantization takes its config alone")


def test_one_is_not_true() -> None:
    @dataclass
    class Numbers:
        one: Literal[1, 2] = 1

    assert read_options("acme", Numbers, {"one": 2}) == Numbers(one=2)
    with pytest.raises(OptionError, match="cannot be True"):
        read_options("acme", Numbers, {"one": True})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "True or False"),
        (Path | None, "a path, or None"),
        (Annotated[int, whole(0, 5)], "a whole number from 0 to 5"),
        (Annotated[int, whole(1, of="bytes")] | None, "a whole number of bytes, at least 1, or None"),
        (dict[str, bool], "a mapping of texts to True or False each"),
        (list[float], "a list of which each is a number"),
        (Annotated[str, said("a name", min_length=1)], "a name"),
    ],
)
def test_what_a_type_allows_is_told_in_words(kind: Any, words: str) -> None:
    assert allowed(kind) == words


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=3), st.binary())


@given(value=ANYTHING)
def test_whole_numbers_keep_their_bounds(value: Any) -> None:
    right = type(value) is int and 0 <= value <= 5
    if right:
        assert read(level=value).level == value
    else:
        with pytest.raises(OptionError):
            read(level=value)
