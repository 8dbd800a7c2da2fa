"""What may be restricted of a model where a candidate is right but for some axis: its range, or else its length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from optimum_core.models.signature import ModelSignature, limited
from optimum_core.types import Fidelity
from optimum_core.verify import ReferenceCase, failing_axes
from optimum_core.verify.ranges import right_up_to

#: Lengths at which an axis is fixed when no candidate is right at others. Other axes keep the configured length, and
#: all of them that of the user's own call, where there is one.
PINNED = {"batch": 1, "media_batch": 1, "sequence": 128, "decoder_sequence": 128}
#: Axes that may be fixed without having been asked: data comes at one size through the model's own processor.
FIXED_BY_PROCESSOR = frozenset({"height", "width"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Restriction:
    """Axes that are fixed, and axes that get no longer than stated."""

    fixed: frozenset[str] = frozenset()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def apply(self, signature: ModelSignature) -> ModelSignature:
        """The signature under this restriction."""
        for axis in sorted(self.fixed):
            signature = signature.pinned(axis, _fixed_length(signature, axis))
        for axis, (least, greatest) in sorted(self.limits.items()):
            why = f"the model computes otherwise at other {axis} lengths, and this form was not exported with that"
            signature = limited(signature, axis, greatest, why, least=least)
        return signature


def _fixed_length(signature: ModelSignature, axis: str) -> int:
    layout = signature.layout
    if axis in PINNED and not signature.given:
        return min(PINNED[axis], layout.longest(axis))
    return signature.configured.get(axis, layout.lengths[axis])


def restrictions(
    signature: ModelSignature, fidelity: Fidelity, cases: tuple[ReferenceCase, ...], *, unasked: bool
) -> Iterator[Restriction]:
    """What would leave out all that is wrong, the least first.

    Args:
        fidelity: of a candidate that is wrong, on these cases.
        unasked: neither a target nor shapes were stated: then only what costs nothing is restricted.
    """
    axes = failing_axes(fidelity, cases) or frozenset()
    if not axes or (unasked and not axes <= FIXED_BY_PROCESSOR):
        return
    if not unasked and (limits := right_up_to(fidelity, cases, signature.layout.lengths)):
        yield Restriction(limits=limits)
    yield Restriction(fixed=axes)
