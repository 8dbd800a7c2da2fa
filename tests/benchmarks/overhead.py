"""The cost of a call of the accelerated model beyond the runtime's own call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tests.benchmarks.page import Page
from tests.benchmarks.subjects import minilm, minilm_directory, text_inputs
from tests.benchmarks.timing import in_turns, median_excess

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import latency_words

_ROUNDS = 2000
_SHAPE = (1, 16)
_MICROSECONDS = 20.0
_SHARE = 0.01

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Excess:
    """A call beside a plainer one, in milliseconds: the two medians, and the median of the differences."""

    label: str
    raw: float
    own: float
    beyond: float

    def row(self) -> tuple[str, ...]:
        times = latency_words(self.raw), latency_words(self.own)
        return self.label, *times, f"{self.beyond * 1e3:+.1f} µs", f"{self.beyond / self.raw:+.2%}"

    @property
    def allowed(self) -> float:
        """The target, in milliseconds."""
        return max(_MICROSECONDS / 1e3, _SHARE * self.raw)

    def verdict(self) -> str:
        return f"{'met' if self.beyond <= self.allowed else 'MISSED'} ({self.allowed * 1e3:.0f} µs)"


def run(cache: Path) -> Page:
    """`InferenceSession.run` beside the accelerated model, on one and the same session, call by call."""
    inputs = text_inputs(minilm(), *_SHAPE)
    with (
        minilm_directory() as directory,
        accelerate(directory, task="feature-extraction", target="ort", cache_dir=cache) as fast,
    ):
        return _page(_measured(fast, inputs))


def _measured(fast: AcceleratedModel, inputs: Mapping[str, Any]) -> list[_Excess]:
    # The very session that `fast` runs: a second one would have threads of its own that spin beside it.
    session: Any = vars(fast)["_session"]._session
    feed = {spec.name: inputs[spec.name].numpy() for spec in fast.manifest.inputs}
    names = [spec.name for spec in fast.manifest.outputs]

    def raw() -> object:
        return session.run(names, feed)

    def by_hand() -> object:
        outputs = session.run(names, {name: tensor.numpy() for name, tensor in ordered.items()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}

    ordered = {name: inputs[name] for name in feed}
    return [
        _beside(raw, raw, "the raw call again (noise)"),
        _beside(raw, lambda: fast(**feed), "fast(...), numpy in and out"),
        _beside(by_hand, lambda: fast(**ordered), "fast(...), torch in and out, beside tensors converted by hand"),
    ]


def _beside(raw: Call, call: Call, label: str) -> _Excess:
    """In pairs: with a third call in the turns, the one in the middle would have other neighbours than the rest."""
    times = in_turns({"raw": raw, "own": call}, _ROUNDS)
    return _Excess(
        label=label,
        raw=median(times["raw"]),
        own=median(times["own"]),
        beyond=median_excess(times["own"], times["raw"]),
    )


def _page(found: Sequence[_Excess]) -> Page:
    _, numpy, tensors = found
    return Page(
        name="overhead",
        title=f"Overhead of a call: MiniLM at {_SHAPE[0]}x{_SHAPE[1]}",
        head=("call", "without it", "the call", "beyond", "share"),
        rows=tuple(item.row() for item in found),
        notes=(
            f"Medians of {_ROUNDS} pairs of calls on one session, the order reversed from pair to pair; “beyond” is "
            "the median of the differences.",
            f"Target: at most {_MICROSECONDS:.0f} µs or {_SHARE:.0%}, whichever is greater: {numpy.verdict()} on "
            f"numpy, {tensors.verdict()} on torch.",
        ),
    )
