"""Eager models that answer otherwise while gradients are recorded: the reference is computed without."""

from __future__ import annotations

import logging
from typing import Any

import torch

from optimum_core.models.eager.calls import as_tensor, eager_outputs, fixed_arguments, fresh
from optimum_core.models.eager.outputs import flatten
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
    drawn = signature.draw(Case(name="gradients", seed=97))
    inputs = {name: signature.given.get(name, value) for name, value in drawn.items()}
    tensors = {name: as_tensor(value) for name, value in inputs.items()}
    try:
        wanted = eager_outputs(module, inputs)
        with torch.enable_grad():
            found = flatten(fresh(module)(**tensors, **fixed_arguments(module)))
    except Exception as error:  # noqa: BLE001 - it can be called without gradients alone, so that no other answer exists
        log.debug("eager does not run with gradients: %r", error)
        return None
    for name, want in wanted.items():
        if name not in found or tuple(found[name].shape) != want.shape:
            return name
        have = found[name].detach().numpy()
        if not compare("gradients", {}, name, want, have, tolerance_of("fp32")).passed:
            return name
    return None
