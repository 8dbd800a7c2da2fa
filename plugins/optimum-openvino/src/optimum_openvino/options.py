"""Options of an OpenVINO session, checked before the runtime sees them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from optimum_core.errors import OptionError

PERFORMANCE_HINTS = ("latency", "throughput", "cumulative_throughput")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoOptions:
    """How a session runs.

    Attributes:
        performance_hint: "latency", "throughput" or "cumulative_throughput"; None: "latency", or "throughput" where
            the request has several streams.
        num_streams: calls that run side by side, at least 1; None: from the request.
        inference_num_threads: CPU threads over all streams, at least 1; None: from the request.
        cache_dir: a directory for compiled models, which opening the same model again then reads; None: none is kept.
        enable_cpu_pinning: bind threads to cores; None: OpenVINO decides.
        enable_hyper_threading: use both threads of a core; None: OpenVINO decides.
        properties: any further properties by OpenVINO's own names ({"KV_CACHE_PRECISION": "f16"}); they win.
    """

    performance_hint: str | None = None
    num_streams: int | None = None
    inference_num_threads: int | None = None
    cache_dir: str | None = None
    enable_cpu_pinning: bool | None = None
    enable_hyper_threading: bool | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> OpenVinoOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value has the wrong type or is
                not among those allowed.
        """
        known = [item.name for item in fields(cls)]
        for name in options:
            if name not in known:
                raise _unknown(name, known)
        return cls(**{name: _checked(name, value) for name, value in options.items()})


def _unknown(name: str, known: list[str]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(known)}"
    return OptionError("backend 'openvino'", f"unknown option {name!r}", remedy)


def _checked(name: str, value: Any) -> Any:
    right, allowed = _CHECKS[name]
    if value is None and name != "properties":
        return None
    if not right(value):
        raise OptionError("backend 'openvino'", f"option {name!r} cannot be {value!r}", f"give {allowed}")
    return str(value) if name == "cache_dir" else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_path(value: object) -> bool:
    # An empty path would switch OpenVINO's cache off without a word.
    return bool(value) and (isinstance(value, str) or hasattr(value, "__fspath__"))


def _is_hint(value: object) -> bool:
    return value in PERFORMANCE_HINTS


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_CHECKS = {
    "performance_hint": (_is_hint, f"one of: {', '.join(PERFORMANCE_HINTS)}"),
    "num_streams": (_is_count, "a whole number of streams, at least 1, or None"),
    "inference_num_threads": (_is_count, "a whole number of threads, at least 1, or None"),
    "cache_dir": (_is_path, "a path, or None"),
    "enable_cpu_pinning": (_is_flag, "True, False or None"),
    "enable_hyper_threading": (_is_flag, "True, False or None"),
    "properties": (_is_mapping, "a mapping of OpenVINO's property names to values"),
}
