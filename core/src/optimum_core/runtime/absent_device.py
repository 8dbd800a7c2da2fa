"""The session of an artifact for another machine: it can be described and saved, but running it raises an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from optimum_core.errors import UnavailableError
from optimum_core.plan.offers import runs_on
from optimum_core.types import Support, TensorSpec
from optimum_core.types.support import device_type


@dataclass(frozen=True, kw_only=True, slots=True)
class AbsentDeviceSession:
    """A placeholder for the session of a device that this machine lacks; it cannot run.

    Attributes:
        why: the reason why its backend does not run here.
        remedy: what can be done.
    """

    backend: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    why: str
    remedy: str

    def run(self, inputs: Mapping[str, Any]) -> NoReturn:
        """Raise the reason why it cannot run.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError(f"backend {self.backend!r} on {self.device}", self.why, self.remedy)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def why_absent(support: Support | None, device: str) -> tuple[str, str] | None:
    """Return why a backend does not run on a device here, and the remedy; None where it does, or may."""
    offers = [offer for offer in (support.offers if support else ()) if runs_on(offer, device)]
    if support is None or not offers or any(offer.proof == "device" for offer in offers):
        return None
    for item in support.limitations:
        if item.hook in (None, "load_session") and item.device in (None, device_type(device)):
            return item.reason, item.remedy
    return "it was built for another machine", "save it, and load it there"
