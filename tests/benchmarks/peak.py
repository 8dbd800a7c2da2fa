"""Operations per second of this machine in one large matrix product: the roof over every model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache as once
from pathlib import Path

import torch
from tests.benchmarks.page import Page

_SIDE = 2048
_ROUNDS = 8
_OPERATIONS = 2 * _SIDE**3


def run(cache: Path) -> Page:
    """In each precision; `cache` is not used."""
    rows = tuple((precision, _words(tera_operations(precision))) for precision in _PRODUCTS)
    return Page(
        name="peak",
        title="Peak of a matrix product through torch",
        head=("precision", "TFLOP/s"),
        rows=rows,
        notes=(f"{_SIDE} x {_SIDE} by {_SIDE} x {_SIDE}, the best of {_ROUNDS}, {torch.get_num_threads()} threads.",),
    )


def _words(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@once
def tera_operations(precision: str) -> float | None:
    """Multiplications and additions a second, in 10¹², of "fp32", "bf16" or "int8"; None for another precision,
    and where torch has no such product here. Measured once a process."""
    if precision not in _PRODUCTS:
        return None
    try:
        product = _PRODUCTS[precision]()
        product()
    except (RuntimeError, NotImplementedError):
        return None
    return _OPERATIONS / min(_seconds(product) for _ in range(_ROUNDS)) / 1e12


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _floats(dtype: torch.dtype) -> Callable[[], object]:
    left, right = (torch.randn(_SIDE, _SIDE).to(dtype) for _ in range(2))
    return lambda: left @ right


def _integers() -> Callable[[], object]:
    left, right = (torch.randint(-128, 128, (_SIDE, _SIDE), dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(left, right)


_PRODUCTS: dict[str, Callable[[], Callable[[], object]]] = {
    "fp32": lambda: _floats(torch.float32),
    "bf16": lambda: _floats(torch.bfloat16),
    "int8": _integers,
}
