"""An artifact for another machine: it can be described, saved and moved, and says why it does not run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from optimum_core.errors import UnavailableError
from optimum_core.types import Support, TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSession:
    """Stands where a session would, and runs nothing.

    Attributes:
        why, remedy: why its backend does not run here, and what to do.
    """

    backend: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    why: str
    remedy: str

    def run(self, inputs: Mapping[str, Any]) -> NoReturn:
        """
        Raises:
            UnavailableError: always.
        """
        raise UnavailableError(f"backend {self.backend!r} on {self.device}", self.why, self.remedy)

    def close(self) -> None:
        """There is nothing to free."""


def limits_of(support: Support | None, device: str) -> tuple[str, str] | None:
    """Why a backend does not run on a device here, and what to do; None where it does, or where that is not known."""
    name = device.lower().partition(":")[0]
    offers = [offer for offer in (support.offers if support else ()) if offer.device.lower() in (device.lower(), name)]
    if support is None or not offers or any(offer.proof == "device" for offer in offers):
        return None
    for item in support.limitations:
        if item.hook in (None, "load_session"):
            return item.reason, item.remedy
    return "it was built for another machine", "save it, and load it there"
