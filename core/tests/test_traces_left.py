"""Traces that `accelerate` leaves in the process: none of what its calls of the model changed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._higher_order_ops.while_loop import while_loop

from formula import Formula
from optimum_core import accelerate
from optimum_core.errors import VerificationError
from optimum_core.models.eager.weight_writes import writes_weights
from optimum_core.models.exporting.tracing import ready_to_trace
from optimum_core.models.exporting.value_branches import _value_reads
from optimum_core.models.signatures.signature import describe
from optimum_core.verify.reference import reference_cases


def chosen(x: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,))
    return answer


def halved(x: torch.Tensor) -> torch.Tensor:
    """Return x, halved until no magnitude is above 1."""
    answer: torch.Tensor = while_loop(  # type: ignore[no-untyped-call] # of torch
        lambda y: y.abs().max() > 1, lambda y: (y * 0.5,), (x,)
    )[0]
    return answer


def careless(x: torch.Tensor) -> torch.Tensor:
    """Return x, and change what it can of the process's settings."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1)
    os.chdir("/")
    zero = torch.rand(1) * 0 + random.random() * 0 + np.random.rand() * 0
    return x + zero.to(x.dtype)


def _numpys() -> list[int]:
    state: Any = np.random.get_state()
    words: list[int] = state[1].tolist()
    return words


def test_settings_and_generators_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = torch.get_rng_state(), random.getstate(), _numpys()
    try:
        accelerate(Formula(careless).eval(), target="torch", sample_inputs={"x": torch.ones(2, 4)})
        assert torch.get_default_dtype() == torch.float32
        assert torch.get_num_threads() == 1
        assert Path.cwd() == tmp_path
        assert torch.equal(torch.get_rng_state(), drawn[0])
        assert random.getstate() == drawn[1]
        assert _numpys() == drawn[2]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("function", [chosen, halved])
def test_operators_that_call_functions_are_watched_and_run_as_before(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """torch keeps for the whole process what it found while a mode watched such an operator."""
    module = Formula(function).eval()
    signature = describe(module, name="calling", samples={"x": torch.ones(2, 4)})
    cases = reference_cases(module, signature)
    assert len(cases) > 10
    above, below = torch.full((3, 5), 4.0), torch.full((3, 5), -4.0)
    wanted = (above * 2, below - 1) if function is chosen else (above / 4, below / 4)
    for x, want in zip((above, below), wanted, strict=True):
        assert torch.equal(module(x), want)


@pytest.mark.parametrize(("function", "reads"), [(chosen, True), (halved, True), (torch.relu, False)])
def test_values_that_such_operators_go_by_are_noticed(
    function: Callable[[torch.Tensor], torch.Tensor], reads: bool
) -> None:
    found = _value_reads(Formula(function), [torch.ones(2, 4) * 3])
    assert bool(found) == reads


def test_functions_are_compiled_as_before() -> None:
    """torch would keep that it is not to compile a function, if a mode of another kind watched its first call."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(lambda x: x * 2, backend=backend)  # type: ignore[misc] # of torch
    module = Formula(compiled).eval()
    assert writes_weights(module, lambda made: made(torch.ones(2, 4))) is False
    assert not graphs
    module(torch.ones(2, 4))
    assert len(graphs) == 1


def tried(x: torch.Tensor) -> torch.Tensor:
    """Return the sums of halves where the length has halves."""
    try:
        return x.view(x.shape[0], 2, -1).sum(1)
    except RuntimeError:
        return x * 0


def test_a_call_that_fails_while_it_is_traced_is_refused_and_ends_no_process() -> None:
    samples = (torch.ones(2, 5),)
    with pytest.raises(RuntimeError, match="invalid for input of size 10"), ready_to_trace(Formula(tried)):
        torch.jit.trace(Formula(tried), samples, check_trace=False)  # type: ignore[no-untyped-call]


CALLS = [0]


def counted(x: torch.Tensor) -> torch.Tensor:
    CALLS[0] += 1
    return x * CALLS[0]


def test_a_counter_outside_of_the_module_is_named() -> None:
    module = Formula(counted).eval()
    signature = describe(module, name="counting", samples={"x": torch.rand(2, 4)})
    with pytest.raises(VerificationError, match=r"draws no random numbers .*a global variable"):
        reference_cases(module, signature)
