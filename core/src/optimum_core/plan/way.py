"""A way from a model to a session, and the precisions that ways compute in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optimum_core.plan.target import AUTO
from optimum_core.types.support import PRECISIONS

FULL_PRECISION = "fp32"
#: Precisions that `precision="auto"` lets compete; quantized ones must be asked for.
FLOATS = PRECISIONS
#: The precision of weights in 64 bits: no backend offers it, and results are held to it.
DOUBLE = "fp64"

#: (backend, input format, output format) of each conversion.
Conversions = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """The quantized ways asked for.

    Attributes:
        schemes: names as in `QuantizeConfig.name`, in the order in which to look for them.
        rest: the precision of the parts left in floats; "auto": every one that is offered.
    """

    schemes: tuple[str, ...]
    rest: str = AUTO


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to run the model.

    Attributes:
        backend: the backend that loads and runs it.
        device: the device it runs on.
        format: the format that the backend loads; None: the eager model.
        rank: the place of that format in the backend's list of those that it loads.
        precision: the arithmetic of the session; for a quantized model, that of the parts left in floats.
        exporter: the backend that exports; `exported`, the format that it writes; and `routes`, its export methods, the
            most promising first.
        quantizer: the backend that quantizes the exported file, and `scheme`, the scheme it uses.
        transforms: (backend, input format, output format) of each conversion between that and the session.
        levels: optimization levels of `backend` for `format` that compete; (None,) where it has none.
        opset: the newest ONNX opset that every backend on the way accepts.
        parallel: concurrent calls may raise the throughput.
        prepares: sessions may be faster when they know the workload's shapes.
        caches: number formats of a decoder's cache that compete with that of the arithmetic.
        proof: how far it can be checked on this machine, as in its offer.
        cost: seconds that building it takes, where that is long.
    """

    backend: str
    device: str
    precision: str
    format: str | None = None
    rank: int = 0
    exporter: str | None = None
    exported: str | None = None
    routes: tuple[str | None, ...] = (None,)
    quantizer: str | None = None
    scheme: str | None = None
    transforms: tuple[tuple[str, str, str], ...] = ()
    levels: tuple[str | None, ...] = (None,)
    opset: int | None = None
    parallel: bool = False
    prepares: bool = False
    caches: tuple[str, ...] = ()
    proof: Literal["device", "graph", "none"] = "device"
    cost: float = 0.0

    @property
    def is_eager(self) -> bool:
        """Whether the eager model runs, and nothing is exported."""
        return self.format is None

    @property
    def is_quantized(self) -> bool:
        """Whether a backend on this way quantizes."""
        return self.scheme is not None
