"""Any signature of a plain module: what `accelerate` returns answers as eager does, or it refuses with an error."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimum_core import accelerate
from optimum_core.errors import OptimumError


class Pair(NamedTuple):
    """An output with a number beside the tensor."""

    made: Any
    rest: Any


#: By kind of a parameter: what it adds to the sum.
KINDS = {
    "floats": "self.linear({0})",
    "ids": "self.table({0}).sum(dim=1)",
    "known": "{0}.float().sum(dim=1, keepdim=True)",
    "series": "{0}.mean(dim=1)[:, :3]",
    "scalar": "{0}",
    "list": "sum(self.linear(part) for part in {0})",
    "dict": "self.linear({0}['a'])",
    "whole": "{0} * 0.5",
    "real": "{0} * 2.0",
    "flag": "(1.0 if {0} else 0.0)",
}
TENSORS = ("floats", "ids", "known", "series", "scalar")
NUMBERS: Mapping[str, tuple[Any, ...]] = {"whole": (2, 0, -1), "real": (0.5, 1.5), "flag": (False, True)}
OUTPUTS = (
    "made", "(made, made * 2)", "[made, made[:, :1]]", "{'made': made, 'rows': 3}", "Pair(made, 2.5)",
    "{'a': {'b': (made,)}, 'none': None}", "(made, True, 'text')", "(made, made.shape[0])", "[row for row in made]",
    "{'made': made, 1: made}", "made.max(dim=1)", "None", "(made.argmax(dim=1), made > 0)",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a forward: "required", "none" (defaults to None) or "number" (defaults to its first number)."""

    name: str
    kind: str
    default: str
    keyword_only: bool

    @property
    def declared(self) -> str:
        default = {"required": "", "none": "=None", "number": f"={NUMBERS.get(self.kind, (0,))[0]!r}"}
        return self.name + default[self.default]

    def value(self, rows: int, seed: int) -> Any:
        """Return an argument of this kind."""
        made = torch.Generator().manual_seed(seed)
        floats = torch.rand(rows, 6, generator=made) + 0.1
        values = {
            "floats": floats,
            "ids": torch.randint(0, 10, (rows, 4), generator=made),
            "known": floats > 0.5,
            "series": torch.rand(rows, 5, 4, generator=made),
            "scalar": floats[0, 0],
            "list": [floats, floats * 2],
            "dict": {"a": floats},
        }
        return values[self.kind] if self.kind in values else NUMBERS[self.kind][seed % len(NUMBERS[self.kind])]


#: The parameters that a call states, and whether those that may be passed by position are.
Call = tuple[tuple[Parameter, ...], bool]


@st.composite
def _parameters(draw: st.DrawFn) -> tuple[Parameter, ...]:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=0, max_size=3))
    made = []
    for number, kind in enumerate((draw(st.sampled_from(("floats", "series", "ids"))), *kinds)):
        defaults = ("none", "number") if kind in NUMBERS else ("required", "none") if kind in TENSORS else ("none",)
        default = draw(st.sampled_from(defaults)) if draw(st.integers(0, 9)) else "required"
        made.append(Parameter(name=f"p{number}", kind=kind, default=default, keyword_only=draw(st.booleans())))
    return tuple(
        sorted(made, key=lambda item: (item.keyword_only, not item.keyword_only and item.default != "required"))
    )


class Base(torch.nn.Module):
    """The weights of every module made here."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 3)
        self.table = torch.nn.Embedding(10, 3)


def _module(parameters: tuple[Parameter, ...], output: str) -> torch.nn.Module:
    star = next((item.name for item in parameters if item.keyword_only), None)
    declared = [f"*, {item.declared}" if item.name == star else item.declared for item in parameters]
    lines = [f"def forward(self, {', '.join(declared)}):", "    made = torch.zeros(1, 3)"]
    for item in parameters:
        lines += [f"    if {item.name} is not None:", f"        made = made + {KINDS[item.kind].format(item.name)}"]
    scope: dict[str, Any] = {"torch": torch, "Pair": Pair}
    exec("\n".join([*lines, f"    return {output}"]), scope)
    torch.manual_seed(0)
    made: torch.nn.Module = type("Made", (Base,), {"forward": scope["forward"]})()
    return made.eval()


@st.composite
def _calls(
    draw: st.DrawFn, parameters: tuple[Parameter, ...], *, numbers: bool = False
) -> tuple[tuple[Parameter, ...], bool]:
    """Draw which parameters a call states, and whether those that may be passed by position are."""
    likely = (*TENSORS, *NUMBERS) if numbers else TENSORS
    stated = tuple(
        item
        for item in parameters
        if item.default == "required" or (draw(st.booleans()) if item.kind in likely else not draw(st.integers(0, 9)))
    )
    return stated, draw(st.booleans())


def _arguments(parameters: tuple[Parameter, ...], call: Call, rows: int, seed: int) -> tuple[list[Any], dict[str, Any]]:
    stated, by_position = call
    args: list[Any] = []
    for item in parameters if by_position else ():
        if item.keyword_only or item not in stated:
            break
        args.append(item.value(rows, seed))
    named = {item.name: item.value(rows, seed) for item in parameters[len(args) :] if item in stated}
    return args, named


def _same(got: Any, want: Any) -> bool:
    if isinstance(want, torch.Tensor):
        return isinstance(got, torch.Tensor) and got.dtype == want.dtype and torch.allclose(got, want, atol=1e-4)
    if isinstance(want, dict):
        return type(got) is type(want) and list(got) == list(want) and all(_same(got[key], want[key]) for key in want)
    if isinstance(want, tuple | list):
        return type(got) is type(want) and len(got) == len(want) and all(map(_same, got, want))
    return type(got) is type(want) and bool(got == want)


def _eager(module: Any, args: list[Any], named: dict[str, Any]) -> Any:
    try:
        with torch.no_grad():
            return copy.deepcopy(module)(*args, **named)
    except Exception as error:  # noqa: BLE001 - whatever eager raises for a call that it does not take
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path_factory.mktemp("cache")
    torch.set_num_threads(threads)


def _check(data: st.DataObject, target: str, folder: Path) -> None:
    parameters = data.draw(_parameters())
    module = _module(parameters, data.draw(st.sampled_from(OUTPUTS)))
    first = data.draw(_calls(parameters))
    args, named = _arguments(parameters, first, data.draw(st.sampled_from((1, 2))), 0)
    samples = (args[0] if len(args) == 1 and data.draw(st.booleans()) else args) if args and not named else None
    if samples is None:
        samples = {**dict(zip([item.name for item in parameters], args, strict=False)), **named}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fast = accelerate(module, target=target, sample_inputs=samples, budget=0, cache_dir=folder)
        except OptimumError:
            return
        for rows, seed in ((1, 0), (2, 0), (3, 1)):
            for call in (first, data.draw(_calls(parameters, numbers=True))):
                args, named = _arguments(parameters, call, rows, seed)
                want = _eager(module, args, named)
                try:
                    got = fast(*args, **named)
                except OptimumError:
                    continue
                assert isinstance(want, Exception) or _same(got, want), (args, named, got, want)


_SETTINGS = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@given(st.data())
@settings(_SETTINGS, max_examples=40)
def test_what_stays_eager_answers_as_eager_or_is_refused(folder: Path, data: st.DataObject) -> None:
    _check(data, "torch", folder)


@given(st.data())
@settings(_SETTINGS, max_examples=8)
def test_what_is_exported_answers_as_eager_or_is_refused(folder: Path, data: st.DataObject) -> None:
    _check(data, "ort", folder)
