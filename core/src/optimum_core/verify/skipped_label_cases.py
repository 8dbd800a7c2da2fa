"""Cases of labels that count for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.signatures.skipped_labels import with_skipped
from optimum_core.verify.comparison import Arrays, ReferenceCase


def skipped_label_cases(
    signature: ModelSignature, answered: Callable[[str, Arrays], ReferenceCase]
) -> Iterator[ReferenceCase]:
    """Yield labels of which every second counts for nothing, and such of which all do.

    Args:
        answered: returns the case of some inputs, by its name, with the eager model's outputs.
    """
    for spec in signature.inputs:
        if (value := spec.skipped) is None:
            continue
        inputs = signature.draw(Case(name=spec.name, seed=96))
        for which, everywhere in (("every second of", False), ("all of", True)):
            changed = with_skipped(inputs, spec.name, value, everywhere=everywhere)
            yield answered(f"{which} {spec.name} {value}", changed)
