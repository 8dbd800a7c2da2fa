"""Texts generated step by step and timed: what the processes of `tests.benchmarks.decoders` share.

It imports nothing of this project and no runtime: other libraries' environments run it too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

#: Rows, tokens of the prompt, and new tokens.
Case = tuple[int, int, int]
#: Yields as each token comes.
Run = Callable[[Case], Iterator[object]]
#: Returns the scores of every position of a text: [tokens, vocabulary].
Scores = Callable[[list[int]], Any]
_FIRST_ID, _IDS = 100, 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model: its greedy loop, and its scores where they are not measured elsewhere."""

    steps: Run
    scores: Scores | None = None


def keep_to(cores: int) -> None:
    """Run on the first of this process's cores; to be called before a runtime counts them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def prompt_of(case: Case) -> Any:
    """Return the ids of the prompt, the same in every process: [rows, tokens]."""
    import numpy as np

    rows, tokens, _ = case
    return np.random.default_rng(3).integers(_FIRST_ID, _IDS, (rows, tokens))


def serve(makers: Mapping[str, Callable[[], Opened]], **facts: Any) -> None:
    """Open every model, tell of those that cannot be opened, then answer a question a line of standard input: the times
    of a case, or the perplexity on texts.

    Args:
        makers: by name, the function that opens a model.
        facts: told as well.
    """
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    opened: dict[str, Opened] = {}
    problems: dict[str, str] = {}
    for name, make in makers.items():
        try:
            opened[name] = make()
        except Exception as error:  # noqa: BLE001 - of any class; the table says how
            problems[name] = f"{type(error).__name__}: {error}"[:300]
    scored = [name for name, model in opened.items() if model.scores is not None]
    _tell(told, {"names": list(opened), "problems": problems, "scored": scored, **facts})
    for line in sys.stdin:
        _tell(told, _answer(opened, json.loads(line)))


def _answer(opened: Mapping[str, Opened], asked: Mapping[str, Any]) -> Any:
    model = opened[asked["name"]]
    if "texts" in asked:
        assert model.scores is not None
        return perplexity(model.scores, asked["texts"])
    rows, tokens, new = asked["case"]
    return timed(model.steps((rows, tokens, new)))


def _tell(stream: Any, value: Any) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def timed(tokens: Iterable[object]) -> tuple[float, float, float, float]:
    """Return milliseconds: of the first token and the median of the others, then CPU time of the first and the mean of
    the others."""
    wall, cpu = [time.perf_counter()], [time.process_time()]
    for _ in tokens:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
    (first, *steps), (first_cpu, *steps_cpu) = ([(b - a) * 1e3 for a, b in pairwise(at)] for at in (wall, cpu))
    return first, median(steps), first_cpu, fmean(steps_cpu)


def perplexity(scores: Scores, texts: Iterable[list[int]]) -> float:
    """Return the exponential of the mean negative log-likelihood of all tokens but the first of each text."""
    import numpy as np

    lost: list[float] = []
    for ids in texts:
        given = np.asarray(scores(ids), np.float64)[:-1]
        given = given - given.max(-1, keepdims=True)
        chosen = given[np.arange(len(ids) - 1), ids[1:]]
        lost += list(np.log(np.exp(given).sum(-1)) - chosen)
    return float(np.exp(np.mean(lost)))
