"""Models whose outputs follow from more than their inputs: chance, a clock, or inputs that they have changed."""

from __future__ import annotations

import cProfile
import datetime
import logging
import os
import pstats
import random
import secrets
import threading
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
    "process": (lambda x: x * (os.getpid() % 7), "os.getpid"),
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


# -- circumstances of a call ------------------------------------------------------------------------------------------


class Pair(torch.nn.Module):
    """Gives what is made of two inputs."""

    def __init__(self, made: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.made(x, y)


LOCAL = threading.local()


def remembered(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return a sum for a thread's first calls, and the difference of all threads that come later."""
    threads.add(threading.get_ident())
    LOCAL.first = getattr(LOCAL, "first", len(threads) == 1)
    return x + y if LOCAL.first else x - y


threads = set[int]()
BY_CIRCUMSTANCE: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], str]] = {
    "thread": (lambda x, y: x + y * (threading.current_thread() is threading.main_thread()), "in another thread"),
    "state of a thread": (remembered, "in another thread"),
    "mode": (lambda x, y: x + y * torch.is_inference_mode_enabled(), "in torch's inference mode"),
    "tensor's mode": (lambda x, y: x * (2 - x.is_inference()) + y, "in torch's inference mode"),
    "address": (lambda x, y: x * (1 + x.data_ptr() % 64) + y, "inside other tensors"),
    "offset": (lambda x, y: x.as_strided(x.shape, x.stride(), 0) + y, "inside other tensors"),
    "identity": (lambda x, y: x * 2 if x is y else x * y, "'x' and 'y' are one tensor"),
    "memory": (lambda x, y: x * (x.data_ptr() != y.data_ptr()) + y, "'x' and 'y' are one tensor"),
}


@pytest.mark.parametrize(("made", "words"), BY_CIRCUMSTANCE.values(), ids=BY_CIRCUMSTANCE)
def test_a_model_that_follows_the_circumstances_of_a_call_is_refused(made: Callable[..., Any], words: str) -> None:
    module = Pair(made).eval()
    signature = describe(module, name="pair", samples={"x": torch.rand(2, 4), "y": torch.rand(2, 4)})
    with pytest.raises(VerificationError, match=f"eager gives another output 'output' .*{words}"):
        reference_cases(module, signature)


def test_circumstances_without_effect_are_none() -> None:
    def attention(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return attention, for which torch has code of its own where two inputs are one tensor."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("it refuses that")
        made: torch.Tensor = layer(x, y, y, need_weights=False)[0]
        return made

    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    samples = {"x": torch.rand(2, 4, 8), "y": torch.rand(2, 4, 8)}
    assert reference_cases(Pair(attention).eval(), describe(Pair(attention).eval(), name="pair", samples=samples))
