"""Modes of torch that a caller may have set around `accelerate`, set aside while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# torch is imported where used: `accelerate` has to report where it is missing.

_DEVICES = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def ordinary_modes() -> Iterator[None]:
    """Run torch without autocast, inference mode and `torch.device("meta")` within the block.

    Under autocast the eager model would be compared, and exported, with its products in 16 bits; in inference mode its
    copies would be made of tensors that tracing refuses; and on device "meta" every tensor that is made has no values.
    """
    import torch

    with ExitStack() as stack:
        for device in filter(torch.is_autocast_enabled, _DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type == "meta":
            stack.enter_context(torch.device("cpu"))
        yield
