"""The thread in which models are opened, and its end where the server is told to stop before they are."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from collections.abc import Sequence

from optimum_serve.serving import GivenUp, ServedModel

log = logging.getLogger(__name__)
#: Seconds in which a search ends by itself at its next stage, and between two interruptions of one that does not.
_PATIENCE = 1.0


class Opener:
    """Opens models one after another, so that each is accelerated alone on the machine.

    Args:
        interrupts: the process is about to end when this does, so that a search may be interrupted anywhere.
    """

    def __init__(self, models: Sequence[ServedModel], *, interrupts: bool) -> None:
        self._models, self._interrupts = models, interrupts
        self._thread = threading.Thread(target=self._run, name="opening", daemon=True)

    async def run(self) -> None:
        """Open all models."""
        self._thread.start()
        while self._thread.is_alive():
            await asyncio.sleep(0.05)

    def _run(self) -> None:
        try:
            for model in self._models:
                model.open()
                if model.is_ready:
                    log.info("model is ready", extra={"model": model.name, "runs": repr(model.model)})
        except GivenUp:
            return

    def end(self, seconds: float) -> None:
        """Give up what is not open yet: at the next stage of a search, or at once where the process ends.

        A call of a runtime cannot be interrupted; after these seconds it is left to end with the process.
        """
        for model in self._models:
            model.give_up()
        if not self._interrupts:
            self._thread.join()
        end = time.monotonic() + seconds
        self._thread.join(_PATIENCE)
        while self._thread.is_alive() and time.monotonic() < end:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(GivenUp)
            )
            self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            log.warning("a model that is being opened did not end within %g s, and is left behind", seconds)
