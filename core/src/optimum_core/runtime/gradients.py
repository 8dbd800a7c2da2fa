"""Tensors whose gradients end at an accelerated model."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from optimum_core.errors import NoGradientsWarning


def detached(who: str, name: str, value: Any) -> Any:
    """Return a torch tensor without its gradients.

    Warns:
        NoGradientsWarning: gradients were asked for, and none will come back through the model.
    """
    torch = sys.modules["torch"]  # its tensor came
    if value.requires_grad and torch.is_grad_enabled():
        warnings.warn(
            f"{who}: input {name!r} requires gradients, and an accelerated model passes none back: call it under "
            f"torch.no_grad(), or call the original to compute gradients",
            NoGradientsWarning,
            stacklevel=6,
        )
    return value.detach()
