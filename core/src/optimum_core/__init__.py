"""Optimum Core: one call takes a Hugging Face model to the fastest correct form that the machine at hand can run.

>>> from optimum_core import accelerate, load           # doctest: +SKIP
>>> fast = accelerate("path/or/hub-id")                 # doctest: +SKIP
>>> fast.save_pretrained("out"); again = load("out")    # doctest: +SKIP

Importing this package does no work: every name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_core.api import accelerate
    from optimum_core.hookspecs import hookimpl
    from optimum_core.runtime.accelerated import AcceleratedModel
    from optimum_core.runtime.loading import load

__version__ = "0.1.0"

_HOMES = {
    "AcceleratedModel": "optimum_core.runtime.accelerated",
    "accelerate": "optimum_core.api",
    "hookimpl": "optimum_core.hookspecs",
    "load": "optimum_core.runtime.loading",
}

__all__ = ["AcceleratedModel", "__version__", "accelerate", "hookimpl", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
