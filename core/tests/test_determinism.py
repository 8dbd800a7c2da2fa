"""Models whose outputs follow from more than their inputs: chance, a clock, or inputs that they have changed."""

from __future__ import annotations

import cProfile
import datetime
import logging
import os
import pstats
import random
import secrets
import time
import uuid
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import VerificationError
from optimum_core.models.eager.randomness import watched_draws
from optimum_core.models.signatures.signature import describe
from optimum_core.verify.reference import reference_cases


class Noise(torch.nn.Module):
    """As many values as chance has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.cat([input, input.new_zeros(len(input), int(torch.randint(1, 10**6, ())))], dim=1)


def test_two_answers_of_unlike_shapes_are_two_answers() -> None:
    signature = describe(torch.nn.Identity().eval(), name="noise", samples={"input": torch.rand(2, 4)})
    module = Noise().eval()
    with pytest.raises(VerificationError, match=r"two values for output 'output'.*shapes"):
        reference_cases(module, signature)


class Drawing(torch.nn.Module):
    """Draws a random number at each call, and gives what is made of it."""

    def __init__(self, made: Callable[[torch.Tensor], torch.Tensor | float]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.made(x)


BY_CHANCE: dict[str, Callable[[torch.Tensor], torch.Tensor | float]] = {
    "seldom": lambda x: torch.rand(1) > 0.999,
    "little": lambda x: torch.randn(1) * 1e-5,
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.001),
    "numpy": lambda x: float(np.random.rand() > 0.999),
    "python": lambda x: float(random.random() < 0.001),
}


@pytest.mark.parametrize("made", BY_CHANCE.values(), ids=BY_CHANCE)
def test_a_model_that_depends_on_chance_is_refused_however_seldom_that_shows(made: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    module = Drawing(made).eval()
    signature = describe(module, name="drawing", samples={"x": torch.rand(2, 4)})
    with pytest.raises(VerificationError, match="draws random numbers"):
        reference_cases(module, signature)


def test_a_draw_without_effect_is_no_chance() -> None:
    """As wav2vec2's LayerDrop, and a check by rejection, which must end."""
    module = Drawing(lambda x: 0 * torch.rand(1) + 0 * np.random.randn() + 0 * random.gauss(0, 1)).eval()
    signature = describe(module, name="drawing", samples={"x": torch.rand(2, 4)})
    random.seed(5)
    torch.manual_seed(5)
    reference_cases(module, signature)
    with watched_draws() as watched:
        pass
    assert not watched.drew


class _Increments(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        return x * 2


def test_a_model_that_changes_its_inputs_is_named_so() -> None:
    model = _Increments().eval()
    signature = describe(model, name="increments", samples={"x": torch.randn(2, 5)})
    with pytest.raises(VerificationError, match=r"changes its own inputs in place \('x'\)"):
        reference_cases(model, signature)


# -- clocks, and the system's random bytes ----------------------------------------------------------------------------


def expired(x: torch.Tensor) -> torch.Tensor:
    """Return x, up to a day."""
    if time.monotonic() > DEADLINE:
        raise RuntimeError("it has expired")
    return x


DEADLINE = time.monotonic() + 86_400
FROM_OUTSIDE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor | float], str]] = {
    "time": (lambda x: x * time.time(), "time.time"),
    "seldom": (lambda x: float(time.time() > 2e9), "time.time"),
    "fraction": (lambda x: 1e-3 * (time.time_ns() // 10**9 % 60 < 30), "time.time_ns"),
    "imported by name": (lambda x: x * (perf_counter() > 5e7), "time.perf_counter"),
    "date": (lambda x: float(datetime.datetime.now().year), "datetime.now"),
    "hour": (lambda x: float(time.localtime().tm_hour == 23), "time.localtime"),
    "bytes": (lambda x: float(os.urandom(4) == b"\0" * 4), "os.urandom"),
    "threads": (lambda x: x * torch.get_num_threads(), "torch.get_num_threads"),
    "day": (lambda x: float(time.strftime("%a") == "Mon"), "time.strftime"),
    "deadline": (expired, "time.monotonic"),
    "in a library": (lambda x: float(secrets.randbelow(10**6) == 0), "os.urandom"),
    "names": (lambda x: float(uuid.uuid4().int == 1 << 78 | 1 << 63), "os.urandom"),
}


@pytest.mark.parametrize(("made", "function"), FROM_OUTSIDE.values(), ids=FROM_OUTSIDE)
def test_a_model_that_depends_on_what_it_reads_outside_is_refused(made: Callable[..., Any], function: str) -> None:
    module = Drawing(made).eval()
    signature = describe(module, name="reading", samples={"x": torch.rand(2, 4)})
    with pytest.raises(VerificationError, match=f"calls ({function}), and (output 'output' depends|nothing shows)"):
        reference_cases(module, signature)


def test_reads_are_found_and_a_profiler_kept_where_one_runs() -> None:
    module, profiler = Drawing(lambda x: x * time.time()).eval(), cProfile.Profile()
    signature = describe(module, name="reading", samples={"x": torch.rand(2, 4)})
    with profiler, pytest.raises(VerificationError, match=r"time\.time"):
        reference_cases(module, signature)
    functions = {name for _, _, name in pstats.Stats(profiler).stats}  # type: ignore[attr-defined] # not in its stub
    assert {"reference_cases", "is_equal"} <= functions


def test_a_model_that_measures_itself_is_not_refused() -> None:
    def measured(x: torch.Tensor) -> torch.Tensor:
        start = perf_counter()
        logging.getLogger("measured").warning("at %s", x.shape)
        log.append(time.monotonic_ns() - start + len(time.strftime("%H")))
        return x * 2

    log = list[float]()
    module, clock = Drawing(measured).eval(), time.perf_counter
    reference_cases(module, describe(module, name="measured", samples={"x": torch.rand(2, 4)}))
    assert log
    assert perf_counter is time.perf_counter is clock
