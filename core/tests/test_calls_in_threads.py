"""Calls of several threads: a call like an earlier one is answered in short only if that one was answered."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from manifests import small_manifest
from optimum_core.errors import SessionError
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.output_lengths import OutputLengths
from optimum_core.types import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=("batch", "length"))
Y = replace(X, name="y")
_SHORT, _LONG = torch.ones(1, 2), torch.ones(1, 6)
_SECONDS = 30


class _AtMostFour:
    """A session that leaves out what is beyond four, and whose first short call ends while a long one runs."""

    backend, device, inputs, outputs = "acme", "cpu", (X,), (Y,)

    def __init__(self) -> None:
        self.short_runs, self.long_runs, self.short_is_answered = (threading.Event() for _ in range(3))

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        if arrays["x"].shape[1] > 4:
            self.long_runs.set()
            assert self.short_is_answered.wait(_SECONDS)
        else:
            self.short_runs.set()
            assert self.long_runs.wait(_SECONDS)
        return {"y": arrays["x"][:, :4].copy()}

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def test_a_call_beside_one_that_fails_does_not_let_it_pass() -> None:
    session = _AtMostFour()
    plugins: Any = SimpleNamespace(binder=lambda held: held.run, direct=lambda held: None)
    fast = AcceleratedModel(small_manifest(inputs=(X,), outputs=(Y,)), Path(), session, plugins=plugins)
    problems: list[Exception] = []

    def long() -> None:
        try:
            fast(_LONG)
        except SessionError as error:
            problems.append(error)

    def short() -> None:
        fast(_SHORT)
        session.short_is_answered.set()

    threads = [threading.Thread(target=call) for call in (short, long)]
    threads[0].start()
    assert session.short_runs.wait(_SECONDS)
    threads[1].start()
    for thread in threads:
        thread.join(_SECONDS)
    assert len(problems) == 1
    with pytest.raises(SessionError, match="output 'y' came with shape"):
        fast(_LONG)


def test_equal_shapes_of_other_inputs_are_checked() -> None:
    a, b = (TensorSpec(name=name, dtype="float32", shape=("batch", f"{name}_length")) for name in "ab")
    lengths = OutputLengths("m", (a, b), (replace(a, name="y"),))
    two, three = np.ones((1, 2)), np.ones((1, 3))
    lengths.check({"a": two, "b": three}, {"y": two})
    with pytest.raises(SessionError, match="its axis 1 should have length 3"):
        lengths.check({"b": two, "a": three}, {"y": two})
