"""Tiny models with random weights, scaled up so that masks and positions matter to their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Factor of all matrices.
_SHARPEN = 4.0


def sharpened(maker: Any, model_type: str, values: Mapping[str, Any], *, seed: int) -> Any:
    """Return a model in evaluation mode.

    Args:
        maker: an auto class of transformers.
        model_type: as in transformers' configurations; `values`: fields of that configuration.
    """
    import torch
    from transformers import AutoConfig

    from optimum_core.models.pretrained import quiet

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        module = maker.from_config(AutoConfig.for_model(model_type, **values)).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(_SHARPEN)
    return module
