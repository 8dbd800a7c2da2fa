"""The targets of generation, as ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks.generators import Timed, Times

_SHORT, _LONG = "1 × 128", "1 × 2000"
_OURS = ("openvino ", "ort ")
_FLOATS = ("fp32", "bf16")
_LENGTHENED = 1.6


def targets(timed: Timed) -> Iterator[str]:
    """Yield a sentence for each target that can be judged by what was timed."""
    yield from filter(None, (*_beside_eager(timed), *_beside_llama_cpp(timed), *_beside_intel(timed), _context(timed)))


def _beside_eager(timed: Timed) -> Iterator[str]:
    eager = _best(timed, ("eager ",), _FLOATS)
    for words, endings, wanted in (("unquantized", _FLOATS, 1.7), ("int8", ("int8",), 2.9), ("int4", ("int4",), 6.5)):
        yield _verdict(f"{words} beside the better eager, a token", eager, _best(timed, _OURS, endings), wanted)


def _beside_llama_cpp(timed: Timed) -> Iterator[str]:
    for words, measure, wanted in (("a token", _step, 1.4), ("the first token", _first, 3.0)):
        theirs = _best(timed, ("llama.cpp ",), ("",), measure)
        yield _verdict(f"int4 beside llama.cpp, {words}", theirs, _best(timed, _OURS, ("int4",), measure), wanted)


def _beside_intel(timed: Timed) -> Iterator[str]:
    """Judge ours on the same runtime, and in every case."""
    for precision in ("fp32", "int8", "int4"):
        for words, measure in (("a token", _step), ("the first token", _first)):
            ratios = {
                case: measure(theirs) / measure(ours)
                for case, theirs in timed.times.get(f"optimum-intel {precision}", {}).items()
                if (ours := timed.of(f"openvino {precision}", case)) is not None
            }
            if ratios:
                told = ", ".join(f"{ratio:.2f} at {case}" for case, ratio in ratios.items())
                yield _said(f"{precision} beside optimum-intel, {words}, at least 1.0", told, min(ratios.values()) >= 1)


def _context(timed: Timed) -> str:
    short, long = (_best(timed, _OURS, ("fp32",), case=case) for case in (_SHORT, _LONG))
    if short is None or long is None:
        return ""
    what = f"a token in fp32 at 2,000 tokens of context, at most {_LENGTHENED} times that at 128"
    return _said(what, f"{long / short:.2f}", long / short <= _LENGTHENED)


def _step(times: Times) -> float:
    return times.step


def _first(times: Times) -> float:
    return times.first


def _best(
    timed: Timed,
    beginnings: Sequence[str],
    endings: Sequence[str],
    measure: Callable[[Times], float] = _step,
    case: str = _SHORT,
) -> float | None:
    """Return the least milliseconds of the models whose names begin and end so."""
    chosen = [name for name in timed.times if name.startswith(tuple(beginnings)) and name.endswith(tuple(endings))]
    found = [measure(times) for name in chosen if (times := timed.of(name, case)) is not None]
    return min(found, default=None)


def _verdict(what: str, theirs: float | None, ours: float | None, wanted: float) -> str:
    if theirs is None or ours is None:
        return ""
    return _said(f"{what}, at least {wanted} times as fast", f"{theirs / ours:.2f}", theirs / ours >= wanted)


def _said(what: str, told: str, met: bool) -> str:
    return f"Target: {what}: {told}, {'met' if met else 'MISSED'}."
