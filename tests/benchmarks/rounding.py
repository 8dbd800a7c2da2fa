"""The loss of 4 bits by each way to round: MiniLM on sentences of film reviews, as graphs of optimum-inc."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.page import Page
from tests.benchmarks.subjects import minilm, minilm_directory
from tests.movies import sentences

from optimum_core.models.exporting.requests import export_of
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.types import QuantizeConfig, TensorSpec

_NUMBER, _BATCH, _LONGEST = 64, 16, 64
_RECIPES: dict[str, dict[str, Any]] = {
    "rtn, symmetric": {"symmetric": True},
    "rtn": {},
    "hqq": {"algorithm": "hqq"},
    "awq": {"algorithm": "awq"},
    "gptq": {"algorithm": "gptq"},
}

Batch = dict[str, torch.Tensor]


def run(cache: Path) -> Page:
    """Round by each, and compare with eager on other sentences than those of calibration."""
    drawn = sentences()
    random.Random(0).shuffle(drawn)
    calibration = list(_batches(drawn[:_NUMBER]))
    tests = list(_batches(drawn[_NUMBER : 2 * _NUMBER]))
    model = minilm()
    with torch.no_grad():
        wanted = [model(**batch).last_hidden_state for batch in tests]
    program, inputs = _program(model, cache)
    rows = []
    for name, fields in _RECIPES.items():
        config = QuantizeConfig(scheme="weight-only", weights="int4", **fields)
        start = time.perf_counter()
        graph = _rounded(program, inputs, config, calibration)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            got = [graph(*(batch[spec.name] for spec in inputs))[0] for batch in tests]
        rows.append((name, *_lost(tests, wanted, got), f"{seconds:.0f} s"))
    return Page(
        name="int4",
        title="Accuracy in 4 bits, by algorithm",
        head=("algorithm", "tokens: relative error", "sentences: mean cosine", "time to round"),
        rows=tuple(rows),
        notes=(
            f"all-MiniLM-L6-v2, groups of 64, the last layer in 8 bits, tables in float; {_NUMBER} sentences of film "
            f"reviews for calibration and {_NUMBER} others, beside eager. A sentence is the mean of its tokens. There "
            "are zero points, except where weights are called symmetric.",
        ),
    )


def _batches(texts: Sequence[str]) -> Iterator[Batch]:
    from transformers import AutoTokenizer

    with minilm_directory() as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), _BATCH):
        chosen = ordered[start : start + _BATCH]
        yield dict(tokenizer(chosen, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"))


def _program(model: Any, cache: Path) -> tuple[Any, tuple[TensorSpec, ...]]:
    from optimum_inc.export import traced

    signature = describe(model, name="minilm")
    request = export_of("inc", "torch-export", MemorySource(model), signature, cache)
    return traced(model, request, "benchmark"), signature.inputs


def _rounded(program: Any, inputs: tuple[TensorSpec, ...], config: QuantizeConfig, calibration: Sequence[Batch]) -> Any:
    from optimum_inc.silencing import quiet
    from optimum_inc.weights import quantize_linears

    graph = program.module(check_guards=False)
    with quiet():
        batches = ([batch[spec.name] for spec in inputs] for batch in calibration)
        quantize_linears(graph, config, frozenset(), "benchmark", batches)
    return graph


def _lost(tests: Sequence[Batch], wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> tuple[str, str]:
    """Of all tokens the error, and of all sentences the cosine."""
    squares = size = 0.0
    cosines = []
    for batch, want, have in zip(tests, wanted, got, strict=True):
        valid = batch["attention_mask"].unsqueeze(-1)
        squares += float(((have - want) * valid).square().sum())
        size += float((want * valid).square().sum())
        cosines += torch.nn.functional.cosine_similarity((want * valid).sum(1), (have * valid).sum(1)).tolist()
    return f"{(squares / size) ** 0.5:.3f}", f"{sum(cosines) / len(cosines):.4f}"
