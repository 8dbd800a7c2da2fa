"""The description that a model of timm carries: the size of its pictures, their mean and deviation, its classes.

timm itself is not needed: its models carry the description as `pretrained_cfg`, formerly `default_cfg`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from optimum_core.types.arrays import Arrays

#: The batch of the sample, so that it is an axis.
_BATCH = 2


def described(module: Any) -> Mapping[str, Any] | None:
    """Return the description that a model carries; None: it carries none with the size of its input."""
    found = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if found is not None and hasattr(found, "to_dict"):
        found = found.to_dict()
    size = found.get("input_size") if isinstance(found, Mapping) else None
    whole = isinstance(size, tuple | list) and len(size) == 3 and all(isinstance(axis, int) for axis in size)
    return found if whole else None


def samples(module: Any) -> Arrays | None:
    """Return one call's inputs, [batch, channels, height, width] around zero; None: the model says nothing of them."""
    if (about := described(module)) is None:
        return None
    name = next(iter(inspect.signature(module.forward).parameters), "x")
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((_BATCH, *about["input_size"])).astype(np.float32)}


def configuration(module: Any) -> dict[str, Any] | None:
    """Return the content of `config.json` as timm writes it to a hub; None: the model carries no description."""
    if (about := described(module)) is None:
        return None
    plain = {key: value for key, value in about.items() if isinstance(value, bool | int | float | str | list | tuple)}
    labels = about.get("label_names") or ()
    return {
        "architecture": about.get("architecture") or type(module).__name__,
        "num_classes": getattr(module, "num_classes", about.get("num_classes")),
        **({"label_names": list(labels)} if labels else {}),
        "pretrained_cfg": plain,
    }
