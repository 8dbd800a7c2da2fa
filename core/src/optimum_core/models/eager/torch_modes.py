"""Modes of torch that a caller may have set around `accelerate`, set aside while it works, and settings of the process
that a model may change, put back when it ends."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

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


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put the process's settings back after the block: the working directory, states of the random generators of torch,
    numpy and Python, and torch's default type, threads and determinism.

    A model may draw or set them in its forward, and `accelerate` calls it many times.
    """
    import torch

    numpy = sys.modules["numpy"].random if "numpy" in sys.modules else None
    before, drawn = random.getstate(), numpy.get_state() if numpy else None
    torch_drawn, dtype, threads = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    determinism, directory = torch.get_deterministic_debug_mode(), _working_directory()
    try:
        yield
    finally:
        random.setstate(before)
        if numpy:
            numpy.set_state(drawn)
        torch.set_rng_state(torch_drawn)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_deterministic_debug_mode() != determinism:
            torch.set_deterministic_debug_mode(determinism)
        if directory is not None and _working_directory() != directory:
            os.chdir(directory)


def _working_directory() -> Path | None:
    with suppress(OSError):  # it may have been removed
        return Path.cwd()
    return None
