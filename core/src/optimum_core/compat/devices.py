"""Devices by the names of another package, refused in its words where nothing here runs on them."""

from __future__ import annotations

from optimum_core.errors import UnavailableError


def check_device(who: str, argument: str, given: str, target: str) -> None:
    """Refuse a device that the backend of a target does not run on here, though it does on others.

    Args:
        argument: the name of the argument that names the device there.
        given: its value.
        target: the target that it stands for.

    Raises:
        UnavailableError: it does not; the remedy is one for a program with these arguments.
    """
    from optimum_core.hardware import detect
    from optimum_core.plan import parse_target
    from optimum_core.plan.offers import runs_on
    from optimum_core.plugins import manager
    from optimum_core.types.support import device_type

    wanted = parse_target(target)
    found = manager().supports(detect()).get(wanted.backend or "")
    offers = [offer for offer in found.offers if offer.loads] if found is not None else []
    if found is None or wanted.device is None or not offers or any(runs_on(offer, wanted.device) for offer in offers):
        return
    known = {offer.device.lower() for offer in offers}
    reasons = [limit for limit in found.limitations if limit.device == device_type(wanted.device)]
    why = "; ".join(limit.reason for limit in reasons) or "it is not known here"
    remedies = [limit.remedy for limit in reasons if limit.remedy]
    remedy = "; or ".join([f"leave {argument} out: it runs on {', '.join(sorted(known))} then", *remedies])
    raise UnavailableError(f"{who}, {argument}", f"{given!r} cannot run on this machine: {why}", remedy)
