"""Offers of all backends, and those that a target takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optimum_core.plan.target import Target
from optimum_core.types import Offer, Support
from optimum_core.types.support import device_type


def offers_of(supports: Mapping[str, Support]) -> Iterator[tuple[str, Offer]]:
    """Yield the offers with the names of their backends, in order of these."""
    for name in sorted(supports):
        for offer in supports[name].offers:
            yield name, offer


def is_asked_for(name: str, offer: Offer, target: Target) -> bool:
    """Whether an offer of a backend is among those that a target takes."""
    if target.backend not in (None, name) or (target.backend is None and offer.proof != "device"):
        return False  # an offer that cannot be checked here is used only if the target names its backend
    if target.device is None:
        return True
    return runs_on(offer, target.device)


def runs_on(offer: Offer, device: str) -> bool:
    """Whether an offer is for a device, or for all devices of its type."""
    return offer.device.lower() in (device.lower(), device_type(device))
