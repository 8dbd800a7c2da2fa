"""Labels of -100, which torch's losses and so those of transformers' models count as none."""

from __future__ import annotations

import logging

from optimum_core.models.eager.calls import ask
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.eager_trials import Trials
from optimum_core.types.arrays import Arrays

log = logging.getLogger(__name__)
SKIPPED = -100


def skipped_value(trials: Trials, layout: Layout, item: InputLayout, least: int | None) -> int | None:
    """Return the value beside its range that an input of labels takes as none; None: there is no such value.

    Args:
        least: the least value of the range.
    """
    inputs = draw(layout, Case(name="labels", padding="none"), trials.arrays)
    given = trials.arrays.get(item.name)
    held = given is not None and given.dtype.kind == "i" and bool((given == SKIPPED).any())
    if least is None or least <= SKIPPED or not (held or "label" in item.name) or inputs[item.name].dtype.kind != "i":
        return None
    return SKIPPED if trials.takes_inputs(with_skipped(inputs, item.name, SKIPPED)) else None


def all_may_be_skipped(trials: Trials, layout: Layout, name: str, value: int) -> bool:
    """Whether the eager model takes an input of labels none of which counts. The call runs to its end, where losses
    are."""
    inputs = draw(layout, Case(name="labels", padding="none"), trials.arrays)
    try:
        ask(trials.module, with_skipped(inputs, name, value, everywhere=True))
    except Exception as error:  # noqa: BLE001 - the eager model refuses them, by an error of any type
        log.debug("all of %s %d: %r", name, value, error)
        return False
    return True


def with_skipped(inputs: Arrays, name: str, value: int, *, everywhere: bool = False) -> Arrays:
    """Return inputs with a value at every second place of one of them, or everywhere."""
    made = inputs[name].copy()
    made.flat[:: 1 if everywhere else 2] = value
    return {**inputs, name: made}
