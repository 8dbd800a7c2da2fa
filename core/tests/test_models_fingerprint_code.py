"""Fingerprints of modules in memory: whatever their code reads changes them, and nothing else does."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from optimum_core.models import fingerprint
from scaled_module import Scaled

Tiny = Callable[[str], Any]

#: Torch warns of the layouts of its tensors as they are made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(The PyTorch API of nested|Sparse ):UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


FACTORS = [2.0]


def _helped(x: torch.Tensor) -> torch.Tensor:
    return x * FACTORS[0]


class Plain(torch.nn.Module):
    """It has no tensors, and calls what it is given and what it finds."""

    def __init__(self, call: Any = None, **attributes: Any) -> None:
        super().__init__()
        self.call = call
        vars(self).update(attributes)

    @property
    def bias(self) -> float:
        return 0.0

    def forward(self, x: torch.Tensor) -> Any:
        return _helped(x) + self.bias if self.call is None else self.call(x)


def _scaling(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * factor


def _using(held: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.mm(held, x)


def _linear(value: float) -> torch.nn.Module:
    module = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(module.weight, value)
    return module


def _hooked(factor: float) -> torch.nn.Module:
    module = Plain()
    module.register_forward_hook(lambda _module, _inputs, output: output * factor)
    return module


def _buffered(value: float) -> torch.nn.Module:
    module = Plain()
    module.register_buffer("kept", torch.tensor(value), persistent=False)
    return module


def _replaced(factor: float) -> torch.nn.Module:
    module = Plain()
    vars(module)["forward"] = lambda x: x * factor
    return module


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


class Describing(Holder):
    def to_dict(self) -> dict[Any, Any]:
        return {1: self.value, "else": [1, {2: 3, "more": 4}]}


def _one_of_two(make: Callable[[float], Any], value: float) -> torch.nn.Module:
    """Return a module that holds two objects of one class, and one of them once more."""
    one, other = make(1.0), make(2.0)
    return Plain(one=one, other=other, used=one if value > 2 else other)


@dataclasses.dataclass
class Settings:
    factor: float


def _using_settings(held: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * held.factor


def _halved(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2.0


class Scripted(torch.nn.Module):
    """Its script is that of one branch alone."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.call = _halved if halves else _doubled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x)


def _repeating(value: float) -> torch.nn.Module:
    """Return modules without tensors of which the last one stands at two places."""
    one, other = torch.nn.ReLU(), torch.nn.Tanh()
    return torch.nn.Sequential(one, other, other if value > 2 else one)


class StateOfItsOwn(Plain):
    def get_extra_state(self) -> Any:
        return {"factor": self.call}

    def set_extra_state(self, state: Any) -> None:
        self.call = state["factor"]


def _with_state_of_its_own(value: float) -> torch.nn.Module:
    return StateOfItsOwn(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda value: Plain(_scaling(value)),
        lambda value: Plain(functools.partial(torch.mul, other=value)),
        lambda value: Plain(sizes=[1, {"two": value}]),
        lambda value: Plain(table=torch.tensor([value])),
        lambda value: Plain(table=np.array([value])),
        lambda value: Plain(table=(torch.eye(2) * value).to_sparse()),
        lambda value: Plain(table=(torch.eye(2) * value).to_sparse_csr()),
        lambda value: Plain(table=(torch.eye(2) * value).to_sparse_csc()),
        lambda value: Plain(tables=[torch.nested.nested_tensor([torch.ones(1), torch.full((2,), value)])]),
        lambda value: Plain(table=torch.nested.nested_tensor([torch.full((2,), value)], layout=torch.jagged)),
        lambda value: Plain(table=torch.empty(int(value), device="meta")),
        lambda value: Plain(table=torch.nn.UninitializedParameter(), size=value),
        lambda value: Plain(_using((torch.eye(2) * value).to_sparse())),
        lambda value: Plain(holder=Holder(value)),
        lambda value: Plain(layers=[_linear(value)]),
        lambda value: Plain(layers={"first": (torch.nn.Sequential(Scaled(value)),)}),
        lambda value: Plain(_using(_linear(value).weight)),
        lambda value: Plain(_linear(value).forward),
        lambda value: Plain(kind=torch.float16 if value > 2 else torch.float32),
        lambda value: Plain(config={"factor": value}),
        lambda value: Plain(config=Settings(value)),
        lambda value: Plain(part=Scaled(), args=argparse.Namespace(factor=value)),
        lambda value: torch.nn.Sequential(Plain(config=types.SimpleNamespace(factor=value))),
        lambda value: Plain(settings=transformers.BertConfig(layer_norm_eps=value)),
        lambda value: Plain(kept=slice(0, int(value))),
        lambda value: Plain(kept=[range(int(value))]),
        lambda value: Plain(kept=collections.deque([value])),
        lambda value: Plain(kept={"all": [Holder(Holder(value))]}),
        lambda value: Plain(kept=argparse.Namespace(part=Holder(value))),
        lambda value: Plain(settings=transformers.PretrainedConfig(factors={1: value, "else": 1})),
        lambda value: Plain(config=Describing(value)),
        lambda value: Plain(_scaling(value), kept=[Holder(number) for number in range(2500)], last=Holder(value)),
        lambda value: _one_of_two(Holder, value),
        lambda value: _one_of_two(_scaling, value),
        lambda value: _one_of_two(lambda factor: _linear(factor).forward, value),
        lambda value: Plain(pattern=re.compile(f"[a-z]{{{int(value)}}}")),
        lambda value: Plain(_using_settings(types.SimpleNamespace(factor=value))),
        lambda value: Plain(_using_settings(Settings(value))),
        lambda value: Plain(functools.lru_cache(_scaling(value))),
        lambda value: Plain(torch.jit.script(_halved if value > 2 else _doubled)),
        lambda value: torch.jit.script(Scripted(halves=value > 2)),
        _repeating,
        _with_state_of_its_own,
        _hooked,
        _buffered,
        _replaced,
    ],
)
def test_what_is_no_weight_shows(make: Callable[[float], torch.nn.Module]) -> None:
    assert fingerprint.of_module(make(2.0)) == fingerprint.of_module(make(2.0))
    assert fingerprint.of_module(make(2.0)) != fingerprint.of_module(make(3.0))


def test_a_module_that_holds_itself_is_described() -> None:
    def made(value: float) -> torch.nn.Module:
        layers: list[Any] = [_linear(value)]
        module = torch.nn.Sequential(Plain(layers=layers))
        layers += [module, layers[0]]
        return module

    assert fingerprint.of_module(made(2.0)) == fingerprint.of_module(made(2.0)) != fingerprint.of_module(made(3.0))


def test_what_its_functions_find_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint.of_module(Plain())
    monkeypatch.setitem(globals(), "FACTORS", [3.0])
    changed = fingerprint.of_module(Plain())
    monkeypatch.setitem(globals(), "_helped", torch.abs)
    replaced = fingerprint.of_module(Plain())
    monkeypatch.setattr(Plain, "bias", property(lambda self: 1.0))
    assert len({before, changed, replaced, fingerprint.of_module(Plain())}) == 4


_OWN = """
import functools
import torch
import usual_helpers

class Own(torch.nn.Module):
    @functools.cached_property
    def offset(self):
        return {offset}

    def forward(self, x):
        from local_helpers import factor
        return usual_helpers.scaled(x) * factor() + self.offset
"""
_HELPERS = {
    "usual_helpers": "TIMES = {times}\ndef scaled(x):\n    return x * TIMES\n",
    "local_helpers": "def factor():\n    return {factor}\n",
}


def _own(monkeypatch: pytest.MonkeyPatch, **values: int) -> str:
    """Return the fingerprint of a module whose code uses modules of its user's by their names."""
    values = {"offset": 1, "times": 1, "factor": 1, **values}
    for name, code in {**_HELPERS, "own": _OWN}.items():
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(code.format(**values), vars(module))
    return fingerprint.of_module(sys.modules["own"].Own())


def test_what_is_in_modules_that_its_functions_name_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = _own(monkeypatch)
    assert _own(monkeypatch) == usual
    assert len({usual, *(_own(monkeypatch, **{name: 2}) for name in ("offset", "times", "factor"))}) == 4


class Rule:
    """An object that a module holds and calls."""

    factor = 2.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def _patched(self: Any, x: torch.Tensor) -> torch.Tensor:
    return x * 3


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (Rule, "factor", 3.0),
        (Rule, "__call__", _patched),
        (torch.nn.Linear, "forward", _patched),
        (torch.nn.Linear, "forward", functools.wraps(torch.nn.Linear.forward)(_patched)),
        (torch.nn.Linear, "extra", property(_patched)),  # type: ignore[arg-type]
        (torch.nn.modules.linear, "init", _patched),
    ],
)
def test_what_is_put_into_classes_and_modules_shows(
    place: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch of a library may act on long inputs alone, which the recorded call is not."""
    made = Plain(rule=Rule(), layer=_linear(2.0))
    before = fingerprint.of_module(made)
    monkeypatch.setattr(place, name, value, raising=False)
    assert fingerprint.of_module(made) != before
    monkeypatch.undo()
    assert fingerprint.of_module(made) == before


_IN_CHILD = """
import torch
from functools import partial
from optimum_core.models import fingerprint

KNOWN, log = {"b", "a", "c"}, __import__("logging").getLogger("x")
SETTINGS = __import__("types").SimpleNamespace(lock=__import__("threading").Lock(), any=object(), kept=slice(3))

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.act = torch.nn.functional.relu
        self.names = {"one", "two", "three"}
        self.register_forward_hook(partial(print, end=""))

    def forward(self, x):
        log.debug("called", SETTINGS.kept)
        return self.act(x) if "a" in KNOWN else x

print(fingerprint.of_module(Own()))
"""


def test_it_is_equal_in_every_process() -> None:
    found = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", _IN_CHILD], env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
