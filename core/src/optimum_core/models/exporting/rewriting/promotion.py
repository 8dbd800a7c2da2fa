"""Running sums and products of narrow integers, in 64 bits as torch computes them.

Converters leave out the promotion that torch defines for `cumsum` and `prod`: in OpenVINO (2026.4) a running sum of
booleans is added up in 8 bits, so that positions counted by a mask are right up to 255 and then begin again at 0;
the tracing exporter of torch (2.13) writes a `CumSum` of booleans, which is not valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_PROMOTED = {torch.cumsum, torch.Tensor.cumsum, torch.prod, torch.Tensor.prod}


class ExplicitPromotion(TorchFunctionMode):
    """While it is active, the promotion is part of what is traced or exported, as a conversion to int64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _PROMOTED and args and _is_promoted(args[0], given):
            return func(args[0].to(torch.int64), *args[1:], **given)
        return func(*args, **given)


def _is_promoted(tensor: torch.Tensor, given: Mapping[str, Any]) -> bool:
    """Return whether torch's result is of another type than the tensor."""
    kind = tensor.dtype
    return given.get("dtype") is None and not (kind.is_floating_point or kind.is_complex or kind == torch.int64)
