"""Silencing of Neural Compressor, torchao and TorchInductor while they work for us."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from optimum_core.backend import present, silence

_NOISY = ("neural_compressor", "torch", "torchao", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Make these libraries log errors only and drop their prints within the block, then restore everything. Neural
    Compressor takes the process's standard error when it is first imported: that is restored too.
    """
    with silence(*_NOISY):
        _import_compressor()
        yield


def _import_compressor() -> None:
    """Import Neural Compressor. On import it sets up a logger (level, and a handler on the standard error of that
    moment), and some of its modules make a workspace in the working directory: here, in a temporary one.
    """
    if "neural_compressor" in sys.modules or not present("neural_compressor"):
        return
    import neural_compressor.torch.quantization  # noqa: F401
    from neural_compressor.common import set_workspace

    workspace = Path(tempfile.gettempdir(), f"optimum-inc-{os.getpid()}")
    atexit.register(shutil.rmtree, workspace, ignore_errors=True)
    set_workspace(str(workspace))
    logger = logging.getLogger("neural_compressor")
    logger.setLevel(logging.CRITICAL)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and sys.__stderr__ is not None:
            handler.setStream(sys.__stderr__)
