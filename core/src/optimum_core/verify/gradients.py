"""Eager models that answer otherwise while gradients are recorded: the reference is computed without."""

from __future__ import annotations

import logging
from typing import Any

from optimum_core.models.eager.calls import eager_outputs, outputs_with_gradients
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.verify.comparison import compare, tolerance_of

log = logging.getLogger(__name__)


def minds_gradients(module: Any, signature: ModelSignature) -> str | None:
    """Return the name of an output that eager gives otherwise while gradients are recorded; None: there is none.

    `torch.nn.TransformerEncoder` writes zeros at padding only without gradients, and a module may ask
    `torch.is_grad_enabled()` itself. It is called on the user's samples where there are any, as these may hold padding
    of a form that is not drawn.
    """
    inputs = signature.sample or signature.draw(Case(name="gradients", seed=97))
    try:
        wanted = eager_outputs(module, inputs)
        found = outputs_with_gradients(module, inputs)
    except Exception as error:  # noqa: BLE001 - it runs under no_grad only, so that there is no other answer
        log.debug("eager does not run with gradients: %r", error)
        return None
    for name, want in wanted.items():
        have = found.get(name)
        if have is None or have.shape != want.shape:
            return name
        if not compare("gradients", {}, name, want, have, tolerance_of("fp32")).passed:
            return name
    return None
