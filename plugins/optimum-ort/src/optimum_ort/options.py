"""Options of an ONNX Runtime session, checked before the runtime sees them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from optimum_core.errors import OptionError

GRAPH_LEVELS = ("disable", "basic", "extended", "all")
EXECUTION_MODES = ("sequential", "parallel")


@dataclass(frozen=True, kw_only=True, slots=True)
class OrtOptions:
    """How a session runs. Every default is ONNX Runtime's own, but for thread counts, which core decides.

    Attributes:
        intra_op_threads: CPU threads inside one operator, at least 1; None: from the request.
        inter_op_threads: threads across operators, at least 1; counts only in execution mode "parallel".
        execution_mode: "sequential" or "parallel" (independent branches side by side).
        graph_optimization_level: what the session optimizes while it loads: "disable", "basic", "extended", "all".
        provider_options: passed to the execution provider as they are ({"cudnn_conv_algo_search": "HEURISTIC"}).
        enable_mem_pattern: plan memory by the shapes first seen.
        enable_cpu_mem_arena: keep freed memory for the next run; False gives it back to the system.
        allow_spinning: let idle threads spin for a moment, which is faster and costs CPU time.
        force_spinning_stop: stop the spinning as soon as the last run returns.
        prepacking: rewrite constant weights for faster kernels; False leaves weights of an external data file
            mapped, so that processes share them.
        deterministic: ask for kernels that give the same bits on every run.
        denormal_as_zero: treat denormal numbers as zero.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    execution_mode: str = "sequential"
    graph_optimization_level: str = "all"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    enable_mem_pattern: bool = True
    enable_cpu_mem_arena: bool = True
    allow_spinning: bool = True
    force_spinning_stop: bool = False
    prepacking: bool = True
    deterministic: bool = False
    denormal_as_zero: bool = False

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> OrtOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value has the wrong type or is
                not among those allowed.
        """
        known = [item.name for item in fields(cls)]
        for name in options:
            if name not in known:
                raise _unknown(name, known)
        return cls(**{name: _CHECKS.get(name, _flag)(name, value) for name, value in options.items()})


def _unknown(name: str, known: list[str]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(known)}"
    return OptionError("backend 'ort'", f"unknown option {name!r}", remedy)


def _wrong(name: str, value: object, allowed: str) -> OptionError:
    return OptionError("backend 'ort'", f"option {name!r} cannot be {value!r}", f"give {allowed}")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _threads(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(name, value, "a whole number of threads, at least 1, or None")
    return value


def _choice(allowed: tuple[str, ...]) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(name, value, f"one of: {', '.join(allowed)}")
        return value

    return check


def _texts(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, value, "a mapping of option names to values")
    return {key: str(entry) for key, entry in value.items()}


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "intra_op_threads": _threads,
    "inter_op_threads": _threads,
    "execution_mode": _choice(EXECUTION_MODES),
    "graph_optimization_level": _choice(GRAPH_LEVELS),
    "provider_options": _texts,
}
