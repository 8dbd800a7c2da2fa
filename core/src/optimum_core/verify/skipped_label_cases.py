"""Cases of labels that count for nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.signatures.skipped_labels import with_skipped
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify.comparison import ReferenceCase

log = logging.getLogger(__name__)


def skipped_label_cases(
    signature: ModelSignature, answered: Callable[[str, ArrayMapping], ReferenceCase]
) -> Iterator[ReferenceCase]:
    """Yield labels of which every second counts for nothing, and such of which all do, if the eager model takes them.

    Args:
        answered: returns the case of some inputs, by its name, with the eager model's outputs, or raises its error.
    """
    for spec in signature.inputs:
        if (value := spec.skipped) is None:
            continue
        inputs = signature.draw(Case(name=spec.name, seed=96))
        for which, everywhere in (("every second of", False), *((("all of", True),) if spec.all_skipped else ())):
            changed = with_skipped(inputs, spec.name, value, everywhere=everywhere)
            try:
                found = answered(name := f"{which} {spec.name} {value}", changed)
            except Exception as error:  # noqa: BLE001 - the eager model refuses it, so there is nothing to compare
                log.info("%s is left out: eager refuses it: %r", name, error)
            else:
                yield found
