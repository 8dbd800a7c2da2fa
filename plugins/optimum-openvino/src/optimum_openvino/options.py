"""Options of an OpenVINO session, checked before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from optimum_core.backend import said, whole

Hint = Literal["latency", "throughput", "cumulative_throughput"]
Properties = Annotated[Mapping[str, Any], said("a mapping of OpenVINO's property names to values")]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoOptions:
    """Options of a session.

    Attributes:
        performance_hint: "latency", "throughput" or "cumulative_throughput"; None: "latency", or "throughput" where
            the request has several streams.
        num_streams: calls that run side by side, at least 1; None: from the request.
        inference_num_threads: CPU threads over all streams, at least 1; None: from the request.
        cache_dir: a directory for compiled models, read when the same model is opened again; None: no cache.
        enable_cpu_pinning: bind threads to cores; None: OpenVINO decides.
        enable_hyper_threading: use both threads of a core; None: OpenVINO decides.
        properties: any further properties by OpenVINO's own names ({"KV_CACHE_PRECISION": "f16"}); they override.
    """

    performance_hint: Hint | None = None
    num_streams: Annotated[int, whole(1, of="streams")] | None = None
    inference_num_threads: Annotated[int, whole(1, of="threads")] | None = None
    cache_dir: Path | None = None
    enable_cpu_pinning: bool | None = None
    enable_hyper_threading: bool | None = None
    properties: Properties = field(default_factory=dict)
