"""Faster exports by transformers' exporters and `torch.onnx`, of the same result.

- While it traces, transformers (5.23) replaces methods of some 40 models that `torch.export` cannot follow, and imports
  the modules of all of them to do so. An object of a class can be traced only if the module of that class was imported
  before, so the other models need no patch.
- For each export, `torch.onnx` (2.13) makes its table of translations anew, and reads and parses the source code of 800
  functions of onnxscript: a seventh of the export of a small model. Here it is made once in a process.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

#: Modules of models: "transformers.models.<model>.<module>", and below them what is patched.
_MODELS = "transformers.models."
_DEPTH = 4


@contextmanager
def patches_of_imported_models() -> Iterator[None]:
    """Restrict the patches of transformers' exporters to models whose modules are imported, while the block runs."""
    from transformers.exporters import utils

    resolve = utils.import_dotted_path

    def resolve_imported(path: str, missing_ok: bool = False) -> Any:
        if missing_ok and path.startswith(_MODELS) and ".".join(path.split(".")[:_DEPTH]) not in sys.modules:
            return None  # as for a package that is not installed: transformers leaves the patch out
        return resolve(path, missing_ok)

    utils.import_dotted_path = resolve_imported
    try:
        yield
    finally:
        utils.import_dotted_path = resolve


@contextmanager
def remembered_translations() -> Iterator[None]:
    """Let `torch.onnx` copy its table of translations to ONNX from the last one, while the block runs."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    registry: Any = ONNXRegistry
    make = registry.__dict__["from_torchlib"]
    registry.from_torchlib = classmethod(_translations(make.__func__))
    try:
        yield
    finally:
        registry.from_torchlib = make


@cache
def _translations(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives a copy of what `make` gives, since an export adds translations of its own."""
    remembered = cache(make)

    def copied(registry: Any, **settings: Any) -> Any:
        table = copy.copy(remembered(registry, **settings))
        table.functions = {target: list(found) for target, found in table.functions.items()}
        return table

    return copied
