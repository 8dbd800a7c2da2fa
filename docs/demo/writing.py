"""The part of the demo on a model that writes: SmolLM2-135M-Instruct, beside the original."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_core import AcceleratedModel
from optimum_core.cli.console import BAD, GOOD, put
from optimum_core.cli.values import latency_words

_QUESTION = "Why is the sky blue? Answer in two sentences."
_NEW = 64
_ROUNDS = 3
_BAR = 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A text that a model wrote, greedily.

    Attributes:
        tokens: the new ids.
        first: milliseconds until the first of them, the median of the rounds; `step`: of each further one.
    """

    tokens: list[int]
    first: float
    step: float

    @property
    def rate(self) -> float:
        """Tokens per second after the first one."""
        return 1e3 / self.step


def show_writing(console: Console, directory: Path, fast: AcceleratedModel) -> int:
    """Let both answer one question, in turns; 1 where the tokens differ."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    eager = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    chat = [{"role": "user", "content": _QUESTION}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    original, ours = _in_turns(eager.generate, fast.generate, dict(ids))
    put(console, (f"“{_QUESTION}”", "bold cyan"))
    put(console, tokenizer.decode(ours.tokens, skip_special_tokens=True).strip())
    console.print()
    _show_rates(console, original, ours)
    console.print()
    if original.tokens != ours.tokens:
        put(console, (f"{BAD} ", "red"), "The original writes other tokens.")
        return 1
    put(console, (f"{GOOD} ", "green"), f"The original writes the same {len(ours.tokens)} tokens.")
    return 0


def _in_turns(one: Callable[..., Any], other: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Written, Written]:
    runs: tuple[list[Written], list[Written]] = [], []
    for _ in range(_ROUNDS):
        for model, found in ((one, runs[0]), (other, runs[1])):
            found.append(_write(model, inputs))
    first, second = (
        Written(
            tokens=found[-1].tokens,
            first=median(item.first for item in found),
            step=median(item.step for item in found),
        )
        for found in runs
    )
    return first, second


def _write(generate: Callable[..., Any], inputs: dict[str, Any]) -> Written:
    length = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        start = time.perf_counter()
        generate(**inputs, max_new_tokens=1, do_sample=False)
        first = time.perf_counter() - start
        start = time.perf_counter()
        ids = generate(**inputs, max_new_tokens=_NEW, do_sample=False)
        whole = time.perf_counter() - start
    tokens = ids[0, length:].tolist()
    return Written(tokens=tokens, first=first * 1e3, step=(whole - first) * 1e3 / max(1, len(tokens) - 1))


def _show_rates(console: Console, original: Written, fast: Written) -> None:
    """Bars of the tokens per second."""
    block = "#" if console.options.ascii_only else "█"
    most = max(original.rate, fast.rate)
    told = f"{fast.rate / original.rate:.2f}× as fast" if fast.rate >= original.rate else "no faster here"
    put(console, ("                       tokens/s  first token", "dim"))
    for name, item, style, remark in (("original", original, "dim", ""), ("accelerated", fast, "green", told)):
        bar = block * max(1, round(_BAR * item.rate / most))
        start = f"          {name:<12}{item.rate:>9.1f}{latency_words(item.first):>13}  "
        put(console, start, (bar, style), ("  " + remark, "bold"))
