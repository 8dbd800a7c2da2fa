"""What a call of the accelerated model costs beyond the runtime's own call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.page import Page
from tests.benchmarks.subjects import minilm, minilm_directory, text_inputs
from tests.benchmarks.timing import in_turns, median_excess

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import latency_words

_ROUNDS = 2000
_SHAPE = (1, 16)
_MICROSECONDS = 20.0
_SHARE = 0.01


def run(cache: Path) -> Page:
    """Raw `InferenceSession.run` beside the accelerated model, on one and the same session, call by call."""
    inputs = text_inputs(minilm(), *_SHAPE)
    with minilm_directory() as directory, accelerate(directory, target="ort", cache_dir=cache) as fast:
        return _page(_times(fast, inputs))


def _times(fast: AcceleratedModel, inputs: Mapping[str, Any]) -> dict[str, list[float]]:
    # The very session that `fast` runs: a second one would have threads of its own that spin beside it.
    raw: Any = vars(fast)["_session"]._session
    feed = {name: inputs[name].numpy() for name in (spec.name for spec in fast.manifest.inputs)}
    names = [spec.name for spec in fast.manifest.outputs]
    calls = {
        "raw": lambda: raw.run(names, feed),
        "numpy": lambda: fast(**feed),
        "torch": lambda: fast(**inputs),
    }
    return in_turns(calls, _ROUNDS)


def _page(times: Mapping[str, list[float]]) -> Page:
    base = median(times["raw"])
    labels = {
        "raw": "onnxruntime.InferenceSession.run",
        "numpy": "fast(...), numpy in and out",
        "torch": "fast(...), torch in and out",
    }
    rows = []
    for key, label in labels.items():
        excess = median_excess(times[key], times["raw"])
        told = ("–", "–") if key == "raw" else (f"{excess * 1e3:+.1f} µs", f"{excess / base:+.2%}")
        rows.append((label, latency_words(median(times[key])), *told))
    allowed = max(_MICROSECONDS / 1e3, _SHARE * base)
    verdict = "met" if median_excess(times["numpy"], times["raw"]) <= allowed else "MISSED"
    return Page(
        name="overhead",
        title=f"Overhead of a call: MiniLM at {_SHAPE[0]}x{_SHAPE[1]}",
        head=("call", "median", "beyond raw", "share"),
        rows=tuple(rows),
        notes=(
            f"Medians of {_ROUNDS} rounds, one call of each in a round, the order reversed from round to round; "
            "“beyond raw” is the median over the rounds of the difference.",
            f"Target on numpy: at most {_MICROSECONDS:.0f} µs or {_SHARE:.0%}, whichever is greater "
            f"(here {allowed * 1e3:.0f} µs): {verdict}.",
        ),
    )
