"""Restrictions of a model for which a candidate is correct but at some axis: limit the axis's range, or else fix it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from optimum_core.models.signatures.signature import ModelSignature, limited
from optimum_core.types import AxisRange, Fidelity
from optimum_core.verify import ReferenceCase, failing_axes
from optimum_core.verify.ranges import right_up_to

#: Lengths at which an axis is fixed when no candidate is correct at others. Other axes keep the configured length; if
#: the user passed a call, all axes keep its lengths.
PINNED = {"batch": 1, "media_batch": 1, "sequence": 128, "decoder_sequence": 128}
#: Axes that may be fixed without a request: the model's own processor gives data of one size.
FIXED_BY_PROCESSOR = frozenset({"height", "width"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Restriction:
    """Axes to fix, and axes to limit to a range of lengths."""

    fixed: frozenset[str] = frozenset()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def apply(self, signature: ModelSignature) -> ModelSignature:
        """Return the signature under this restriction."""
        for axis in sorted(self.fixed):
            signature = signature.pinned(axis, _fixed_length(signature, axis))
        for axis, (least, greatest) in sorted(self.limits.items()):
            why = "at other lengths this form does not give what the eager model gives"
            signature = limited(signature, axis, greatest, why, least=least)
        return signature


def _fixed_length(signature: ModelSignature, axis: str) -> int:
    layout = signature.layout
    if axis in PINNED and not signature.given:
        longest = signature.ranges.get(axis, AxisRange()).greatest or layout.limits.get(axis)
        return PINNED[axis] if longest is None else min(PINNED[axis], longest)
    return signature.configured.get(axis, layout.lengths[axis])


def restrictions(
    signature: ModelSignature, fidelity: Fidelity, cases: tuple[ReferenceCase, ...], *, unasked: bool
) -> Iterator[Restriction]:
    """Yield restrictions that exclude all failing cases, the mildest first.

    Args:
        fidelity: that of a wrong candidate, on these cases.
        unasked: neither a target nor shapes were stated: then only axes that the processor fixes are restricted.
    """
    axes = failing_axes(fidelity, cases) or frozenset()
    if not axes or (unasked and not axes <= FIXED_BY_PROCESSOR):
        return
    if not unasked and (limits := right_up_to(fidelity, cases, signature.layout.lengths)):
        yield Restriction(limits=limits)
    yield Restriction(fixed=axes)
