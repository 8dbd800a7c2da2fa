"""`python -m tests.benchmarks.children.generating CORES EAGER ARTIFACT…`: the eager model and accelerated ones, timed.

EAGER is a directory of transformers, artifacts are directories too. `tests.benchmarks.children.steps` answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.children.steps import Case, Opened, keep_to, prompt_of, serve

_READ_BYTES = 2**29


def main() -> None:
    """Open all models, and answer."""
    cores, eager, *artifacts = sys.argv[1:]
    keep_to(int(cores))
    import torch

    torch.set_num_threads(int(cores))
    makers = {f"eager {name}": partial(_eager, eager, name) for name in ("fp32", "bf16")}
    makers |= {Path(name).name: partial(_accelerated, name) for name in artifacts}
    serve(makers, bandwidth=_bandwidth())


def _accelerated(directory: str) -> Opened:
    from optimum_core import load

    model = load(directory)
    settings: dict[str, Any] = {"eos_token_id": -1, "pad_token_id": 0, "stream": True}
    return Opened(steps=lambda case: model.generate(prompt_of(case), max_new_tokens=case[2], **settings))


def _eager(directory: str, precision: str) -> Opened:
    """Return the eager model, driven by a bare loop with its own cache: less than its `generate` takes."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()

    def steps(case: Case) -> Iterator[object]:
        ids, past = torch.from_numpy(prompt_of(case)), None
        for _ in range(case[2]):
            with torch.inference_mode():
                answer = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                ids, past = answer.logits[:, -1:].argmax(-1), answer.past_key_values
            yield ids

    return Opened(steps=steps)


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
