"""The target that a user names: any backend or one, on any of its devices or one."""

from __future__ import annotations

from dataclasses import dataclass

from optimum_core.errors import OptionError
from optimum_core.plugins import ANY

AUTO = ANY


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The target asked for: any backend or a named one, on any of its devices or a named one."""

    backend: str | None = None
    device: str | None = None

    def __str__(self) -> str:
        """Return the target as users write it: "auto", "ort", "ort:cuda:0"."""
        backend = self.backend or AUTO
        return f"{backend}:{self.device}" if self.device else backend


def parse_target(target: str) -> Target:
    """Parse "auto", "ort", "openvino:GPU", "ort:cuda:0", "trt:sm_89".

    Raises:
        OptionError: it is empty or not a string, or numbers the processor.

    >>> parse_target("ort:cuda:0")
    Target(backend='ort', device='cuda:0')
    """
    if not isinstance(target, str):
        raise OptionError("target", f"it is of type {type(target).__name__}", 'pass one text: "auto", or a backend')
    if not target.strip(" :"):
        raise OptionError("target", f"{target!r} names nothing", 'pass "auto", a backend, or "backend:device"')
    backend, colon, device = target.strip().partition(":")
    if not backend or (colon and not device) or device.endswith(":"):
        missing = "device" if backend else "backend"
        raise OptionError("target", f"{target!r} names no {missing}", 'pass "auto", a backend, or "backend:device"')
    if device.lower().startswith("cpu:") and device[4:] != "0":
        remedy = f"pass {f'{backend}:cpu'!r}; affinity and CPU limits say which of its cores are used"
        raise OptionError("target", f"{target!r}: a machine has one processor, whose name has no number", remedy)
    return Target() if backend == AUTO else Target(backend=backend, device=device.lower() or None)
