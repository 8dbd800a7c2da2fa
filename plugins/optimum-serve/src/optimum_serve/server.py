"""The server as its endpoints see it: models by name, settings and figures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from optimum_serve.bodies import Bodies
from optimum_serve.endpoints import Call
from optimum_serve.errors import RequestError
from optimum_serve.metrics import Metrics
from optimum_serve.monitoring.notebook import Notebook
from optimum_serve.monitoring.retuning import Retuner
from optimum_serve.monitoring.watch import ModelWatch
from optimum_serve.opener import Opener
from optimum_serve.serving import TOKENIZING_THREADS, ServedModel
from optimum_serve.settings import ModelSettings, Settings
from optimum_serve.tokenizing import Tokenizing
from optimum_serve.tracing import tracing_of

log = logging.getLogger(__name__)
#: Names that clients send where theirs states none: huggingface_hub and those of text-generation-inference.
_UNSTATED = ("", "dummy", "tgi")
_ENERGY_SECONDS = 300
_WATCH_SECONDS = 60


class Server:
    """Models by name, with what they share.

    Args:
        ends_process: the process ends when the server does.
    """

    def __init__(self, settings: Settings, *, ends_process: bool = False) -> None:
        self.settings = settings
        self._ends_process = ends_process
        self.metrics = Metrics()
        self.bodies = Bodies(most=settings.max_bodies)
        self.tracing = tracing_of(settings.traces)
        self.retuner = Retuner(settings.retune_after, self.metrics.monitoring)
        self._notebook = Notebook(settings)
        self.is_stopping = False
        self._tokenizing = Tokenizing(TOKENIZING_THREADS)
        self.models = {stated.label: self._unopened(stated) for stated in settings.models}
        self._names = {stated.source: stated.label for stated in reversed(settings.models)}
        self._names |= {alias: stated.label for stated in settings.models for alias in stated.aliases}

    def _unopened(self, stated: ModelSettings) -> ServedModel:
        model = ServedModel(stated, self.settings, self.metrics.of(stated.label), self._tokenizing)
        model.baseline = self._notebook.baselines.get(stated.label, {})
        return model

    def renew(self, name: str) -> None:
        """Close a model, so that it can be opened again."""
        stated = next(stated for stated in self.settings.models if stated.label == name)
        closed, self.models[name] = self.models[name], self._unopened(stated)
        closed.close()

    async def start(self) -> None:
        """Open all models, in a thread."""
        opener = Opener(list(self.models.values()), interrupts=self._ends_process)
        try:
            await opener.run()
        except asyncio.CancelledError:
            await asyncio.to_thread(opener.end, self.settings.drain)
            raise

    async def watch(self) -> None:
        """Write what was learned, and tune what is due, again and again."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await asyncio.to_thread(self._notebook.write, self._watched())
            for model in self.models.values():
                if self.retuner.is_due(model):
                    self.retuner.begin(model)

    def _watched(self) -> dict[str, ModelWatch]:
        return {name: model.watch for name, model in self.models.items() if model.is_ready}

    async def watch_energy(self) -> None:
        """Read the counters of energy, where there are any, before they begin anew."""
        while self.metrics.energy.is_there:
            await asyncio.sleep(_ENERGY_SECONDS)
            self.metrics.energy.joules()

    async def stop(self) -> None:
        """Answer what waits, and free all models."""
        self.is_stopping = True
        loop = asyncio.get_running_loop()
        await self.retuner.close()
        for model in self.models.values():
            await loop.run_in_executor(None, model.close)
        await asyncio.to_thread(self._notebook.write, self._watched())
        await loop.run_in_executor(None, self._tokenizing.close)
        if self.tracing is not None:
            await loop.run_in_executor(None, self.tracing.close)

    @property
    def is_ready(self) -> bool:
        """Whether all models answer, and the server is not about to stop."""
        return not self.is_stopping and all(model.is_ready for model in self.models.values())

    def named(self, call: Call, name: str) -> ServedModel:
        """Return a model by its name or an alias, or by its source as it was stated: "owner/name".

        Raises:
            RequestError: there is none (404).
        """
        name = name if name in self.models else self._names.get(name, name)
        if name not in self.models:
            known = ", ".join(map(repr, self.models))
            raise RequestError(
                status=404,
                kind="no_model",
                message=f"there is no model {name!r} here; there is {known}",
                field="model",
            )
        call.model = name
        return self.models[name]

    def chosen(self, call: Call, name: str | None, can: Callable[[ServedModel], bool], what: str) -> ServedModel:
        """Return the model of a name, or the only one; of several, the first that can do what is asked.

        Args:
            name: None or empty: whichever can.
            what: what it is to do, for errors: "embeds texts".

        Raises:
            RequestError: there is none of this name (404), or none that can (501).
        """
        stated = call.path.get("model") or (name if name in self.models or name not in _UNSTATED else None)
        candidates = [self.named(call, stated)] if stated else list(self.models.values())
        ready = [model for model in candidates if model.is_ready]
        found = next((model for model in ready if can(model)), None)
        if found is not None:
            call.model = found.name
            return found
        for model in candidates:
            _ = model.model  # one that is being opened might have been meant
        others = ", ".join(repr(model.name) for model in self.models.values() if model.is_ready and can(model))
        if stated and others:
            message = f"model {stated!r} is of kind {candidates[0].kind!r}; a model here that {what}: {others}"
        else:
            kinds = ", ".join(f"{model.name!r} ({model.kind})" for model in ready)
            message = f"no model here {what}; there is {kinds}"
        raise RequestError(status=501, kind="not_supported", message=message, field="model" if stated else "")
