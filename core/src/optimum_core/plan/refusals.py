"""Errors for requests without a way: what cannot be had here, and why."""

from __future__ import annotations

from collections.abc import Mapping

from optimum_core.errors import UnavailableError
from optimum_core.plan.offers import is_asked_for, offers_of
from optimum_core.plan.target import AUTO, Target
from optimum_core.plan.way import Quantization
from optimum_core.types import Limitation, Support
from optimum_core.types.support import device_type

_SEE = "see `optimum-core plugins` for what can run here and why not"


def nothing_fits(supports: Mapping[str, Support], target: Target, precision: str) -> UnavailableError:
    """Return the error for a request without a way: its device, precision or unquantized model is not available."""
    asked = target.backend or AUTO
    wanted = f"{asked}:{target.device}" if target.device else asked
    mine = [name for name in sorted(supports) if target.backend in (None, name)]
    loading = [offer for name in mine for offer in supports[name].offers if offer.loads]
    devices = sorted({offer.device.lower() for offer in loading})
    limits = [limit for name in mine for limit in supports[name].limitations]
    if target.device is not None and devices and not any(is_asked_for(asked, offer, target) for offer in loading):
        reasons = _reasons(_about(limits, target.device)) or f"it knows no device {target.device!r}"
        return UnavailableError(
            f"target {wanted!r}",
            f"on this machine {asked} runs on {', '.join(devices)}; {reasons}",
            f"pass target={f'{asked}:{devices[0]}'!r}, or {_SEE}",
        )
    if target.backend in [name for name in mine if supports[name].is_silent]:
        why = "its probe offers nothing here, and gives no reason"
        return UnavailableError(f"target {wanted!r}", why, "report it to its authors, or name another target")
    if not devices:
        why = _reasons(limits) or "no backend here loads what any backend here exports"
        return UnavailableError(f"target {wanted!r}", why, _SEE)
    precisions = dict.fromkeys(item for offer in loading for item in offer.precisions)
    if precision not in (AUTO, *precisions):
        why = f"on this machine it computes in {', '.join(precisions)}, and not in {precision}"
        return UnavailableError(
            f"target {wanted!r}", why, f"pass precision={' or '.join(map(repr, precisions))}, or {_SEE}"
        )
    schemes = dict.fromkeys(scheme for offer in loading for scheme in offer.runs)
    if schemes:
        why = f"it runs quantized models alone here ({', '.join(schemes)})"
        return UnavailableError(f"target {wanted!r}", why, f"pass quantize={next(iter(schemes))!r}, or another target")
    why = _reasons(limits) or f"nothing here makes what it loads ({', '.join(offer.loads[0] for offer in loading)})"
    return UnavailableError(f"target {wanted!r}", why, _SEE)


def _about(limits: list[Limitation], device: str) -> list[Limitation]:
    """Return the limitations of a device; where there are none, those of sessions on all devices."""
    named = [item for item in limits if item.device == device_type(device)]
    return named or [item for item in limits if item.device is None and item.hook == "load_session"]


def _reasons(limits: list[Limitation]) -> str:
    return "; ".join(f"it cannot {item.what}: {item.reason} ({item.remedy})" for item in limits)


def cannot_quantize(supports: Mapping[str, Support], target: Target, quantization: Quantization) -> UnavailableError:
    """Return the error naming the schemes that run on the target, or why no backend quantizes by those asked for."""
    asked = [(name, offer) for name, offer in offers_of(supports) if is_asked_for(name, offer, target)]
    schemes = dict.fromkeys(scheme for _, offer in asked for scheme in offer.runs)
    wanted = ", ".join(quantization.schemes)
    who = f"quantize {wanted}"
    where = f"target {target.backend!r}" if target.backend else "this machine"
    if not any(scheme in schemes for scheme in quantization.schemes):
        here = f"; what runs there is {', '.join(schemes)}" if schemes else ", nor any other scheme"
        remedy = "ask for one of these, or another target" if schemes else "ask for another target"
        return UnavailableError(who, f"nothing on {where} runs it{here}", remedy)
    limits = [
        f"{name}: {item.reason} ({item.remedy})"
        for name in sorted(supports)
        for item in supports[name].limitations
        if item.hook in (None, "quantize")
    ]
    why = "nothing installed quantizes so" + (f": {'; '.join(limits)}" if limits else "")
    return UnavailableError(who, why, _SEE)
