"""Faster exports by transformers' exporters and `torch.onnx`, of the same result.

- While it traces, transformers (5.23) replaces methods of some 40 models that `torch.export` cannot follow, and imports
  the modules of all of them to do so. An object of a class can be traced only if the module of that class was imported
  before, so the other models need no patch.
- For each export, `torch.onnx` (2.13) makes its table of translations anew, and reads and parses the source code of 800
  functions of onnxscript: a seventh of the export of a small model. Here it is made once in a process.

Both are looked up by private names, and where another version lacks one, its exports are as fast as without.
"""

from __future__ import annotations

import copy
import importlib
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

    resolve: Any = getattr(utils, "import_dotted_path", None)

    def resolve_imported(path: str, missing_ok: bool = False) -> Any:
        if missing_ok and path.startswith(_MODELS) and ".".join(path.split(".")[:_DEPTH]) not in sys.modules:
            return None  # as for a package that is not installed: transformers leaves the patch out
        return resolve(path, missing_ok)

    with _replaced(utils, "import_dotted_path", resolve_imported if resolve else None):
        yield


@contextmanager
def remembered_translations() -> Iterator[None]:
    """Let `torch.onnx` copy its table of translations to ONNX from the last one, while the block runs."""
    try:
        registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        make = vars(registry)["from_torchlib"].__func__
    except (ImportError, AttributeError, KeyError):
        registry = make = None
    with _replaced(registry, "from_torchlib", classmethod(_translations(make)) if make else None):
        yield


@contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Set an attribute while the block runs, unless there is no replacement."""
    if replacement is None:
        yield
        return
    before = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before)


@cache
def _translations(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives a copy of what `make` gives, since an export adds translations of its own."""
    remembered = cache(make)

    def copied(registry: Any, *settings: Any, **named: Any) -> Any:
        table = copy.copy(remembered(registry, *settings, **named))
        table.functions = {target: list(found) for target, found in table.functions.items()}
        return table

    return copied
