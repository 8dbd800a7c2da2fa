"""Refusal of generation by a model without a cache, also where a pipeline of transformers would generate."""

from __future__ import annotations

import sys
from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.errors import UnavailableError

_EAGER = "generate with the eager model, or with accelerate(…, target='torch')"
_ORIGINAL = "accelerate the checkpoint that it was made from"
#: The tasks whose pipelines do nothing but generate.
_GENERATING = frozenset({"text-generation", "image-text-to-text", "any-to-any"})


def no_cache_error(who: str, manifest: Manifest, further: str = "") -> UnavailableError:
    """Return the error that says why a model does not generate.

    Args:
        further: what follows the reason.
    """
    why = f"it was accelerated as one forward pass, without the cache that generation needs{further}"
    remedy = _EAGER if manifest.model.has_original else _ORIGINAL
    return UnavailableError(who, why, f"{remedy}; call this one for logits and scores")


def generating_pipeline(asking: Any, class_name: str) -> str | None:
    """Return the task of a pipeline of transformers that asks whether a model generates, and would then generate; else
    None.

    Such a pipeline asks once, in its `__init__`. Told no, it ends in an `AttributeError` at its first text, or, for
    sound, returns what one forward pass gives out. Those that also take models without generation, as for speech with
    CTC, are meant only where the original generates.

    Args:
        asking: the frame that asks.
        class_name: the original's class; a name that transformers does not have is that of a repository's own code.
    """
    base = sys.modules.get("transformers.pipelines.base")
    pipeline = asking.f_locals.get("self")
    if base is None or not isinstance(pipeline, base.Pipeline) or asking.f_code.co_name != "__init__":
        return None
    if not getattr(pipeline, "_pipeline_calls_generate", False):
        return None
    original = getattr(sys.modules["transformers"], class_name, None)
    generates = pipeline.task in _GENERATING or getattr(original, "can_generate", bool)()
    return pipeline.task if generates else None
