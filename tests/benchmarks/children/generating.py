"""Models that generate, timed in turns: `generating EAGER CORES ROUNDS CASES ARTIFACT...`.

EAGER is a directory of transformers; CASES is `batch x prompt x new` in JSON; artifacts are directories. It prints one
line of JSON: for every model and case the medians of its first token and of each further one, in milliseconds of wall
and of CPU time, and the memory bandwidth that torch reaches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

Case = tuple[int, int, int]
#: Yields as each token comes.
Run = Callable[[Case], Iterator[object]]
_FIRST_ID, _IDS = 100, 4000
_READ_BYTES = 2**29


def main() -> None:
    """Measure and print."""
    eager, cores, rounds, cases, *artifacts = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    import torch

    torch.set_num_threads(int(cores))
    runs = {**dict(_eager(eager)), **{Path(name).name: _accelerated(name) for name in artifacts}}
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {name: {} for name in runs}
    asked: list[Case] = [(batch, prompt, new) for batch, prompt, new in json.loads(cases)]
    for turn in range(int(rounds)):
        for case in asked:
            for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
                found[name].setdefault(_label(case), []).append(_timed(runs[name](case)))
    medians = {
        name: {case: [median(column) for column in zip(*rows, strict=True)] for case, rows in by_case.items()}
        for name, by_case in found.items()
    }
    sys.stdout.write(json.dumps({"bandwidth": _bandwidth(), "times": medians}) + "\n")


def _label(case: Case) -> str:
    batch, prompt, new = case
    return f"{batch}x{prompt}+{new}"


def _timed(tokens: Iterable[object]) -> tuple[float, float, float, float]:
    """Return milliseconds of the first token and the median of the others: wall, wall, CPU, CPU."""
    wall, cpu = [time.perf_counter()], [time.process_time()]
    for _ in tokens:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
    steps = [[(after - before) * 1e3 for before, after in pairwise(at)] for at in (wall, cpu)]
    return steps[0][0], median(steps[0][1:]), steps[1][0], sum(steps[1][1:]) / len(steps[1][1:])


def _ids(case: Case) -> Any:
    import numpy as np

    batch, prompt, _ = case
    return np.random.default_rng(3).integers(_FIRST_ID, _IDS, (batch, prompt))


def _accelerated(directory: str) -> Run:
    from optimum_core import load

    model = load(directory)
    return lambda case: model.generate(_ids(case), max_new_tokens=case[2], eos_token_id=-1, pad_token_id=0, stream=True)


def _eager(directory: str) -> Iterator[tuple[str, Run]]:
    import torch
    from transformers import AutoModelForCausalLM

    for name, dtype in (("eager fp32", torch.float32), ("eager bf16", torch.bfloat16)):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        model.generation_config.eos_token_id = None
        yield name, _steps_of(model)


def _steps_of(model: Any) -> Run:
    """Return the greedy loop on the eager model with its own cache, bare: less than its `generate` takes."""
    import torch

    def steps(case: Case) -> Iterator[object]:
        ids, past = torch.from_numpy(_ids(case)), None
        for _ in range(case[2]):
            with torch.inference_mode():
                answer = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                ids, past = answer.logits[:, -1:].argmax(-1), answer.past_key_values
            yield ids

    return steps


def _bandwidth() -> float:
    """Return the bytes that torch reads in a second, at best of some rounds: what bounds a decoder's step."""
    import torch

    values = torch.ones(_READ_BYTES // 4)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - start)
    return _READ_BYTES / best


if __name__ == "__main__":
    main()
