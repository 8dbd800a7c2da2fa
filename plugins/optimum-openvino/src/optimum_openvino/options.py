"""Options of an OpenVINO session, checked before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optimum_core.options import Check, flag, mapping_of, one_of, optional, path, read_options, whole

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
        return read_options("openvino", cls, _CHECKS, options)


_CHECKS: Mapping[str, Check] = {
    "performance_hint": optional(one_of(*PERFORMANCE_HINTS)),
    "num_streams": optional(whole(1, of="streams")),
    "inference_num_threads": optional(whole(1, of="threads")),
    "cache_dir": optional(replace(path(), convert=str)),
    "enable_cpu_pinning": optional(flag()),
    "enable_hyper_threading": optional(flag()),
    "properties": mapping_of(what="OpenVINO's property names to values"),
}
