"""A model under its name: opened or accelerated, what it can answer, and its answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.errors import OptimumError
from optimum_core.types import Cut, Event, PreparedChat, TokenIds
from optimum_core.types.arrays import NDArray
from optimum_serve.abilities import Abilities
from optimum_serve.batcher import Batcher
from optimum_serve.errors import RequestError, empty, invalid
from optimum_serve.lifetime import Workers, begun, freed, warm
from optimum_serve.limits import check_batch, check_lengths, check_number, check_size, check_values, tokens_of
from optimum_serve.metrics import ModelMetrics
from optimum_serve.monitoring.watch import ModelWatch
from optimum_serve.settings import ModelSettings, Settings
from optimum_serve.sparse import SPARSE, sparse_rows
from optimum_serve.tokenizing import Manner, Side, Tokenizing

log = logging.getLogger(__name__)
Text = str | tuple[str, str]
#: Threads that read texts, for all models.
TOKENIZING_THREADS = 2
_IDS = "input_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Answers to many inputs.

    Attributes:
        values: an array for each.
        tokens: the tokens of all inputs.
    """

    values: list[NDArray]
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The beginning of a text to write.

    Attributes:
        value: a text, a chat or ids.
        tokens: its number of tokens.
        room: the greatest number of new tokens behind it.
        is_limited: the server's settings state that number, and the model has room for more.
    """

    value: Any
    tokens: int
    room: int
    is_limited: bool = False

    @property
    def size(self) -> int:
        """The bytes of its pictures in arrays."""
        return sum(array.nbytes for array in self.value.inputs.values()) if isinstance(self.value, PreparedChat) else 0


class GivenUp(BaseException):
    """The server stops while a model is opened; a BaseException, so that no trial of a search records it."""


class ServedModel(Abilities):
    """One model, which answers once it has been opened.

    Args:
        tokenizing: threads for tokenizers, which models share.
    """

    def __init__(
        self, stated: ModelSettings, settings: Settings, metrics: ModelMetrics, tokenizing: Tokenizing
    ) -> None:
        self.name = stated.label
        self.problem = ""
        self._stated = stated
        self._settings = settings
        self._generation = {**settings.generation, **stated.generation}
        self._metrics = metrics
        self._tokenizing = tokenizing
        self._model: AcceleratedModel | None = None
        self._workers = Workers()
        self._watch: ModelWatch | None = None
        self.baseline: Mapping[str, Sequence[int]] = {}
        self._is_given_up = False

    # Its life.

    def open(self) -> None:
        """Open the artifact, or accelerate the model; takes seconds to minutes. A failure is kept as `problem`."""
        try:
            model = self._opened()
            warm(model, self._generation)
            self._watch = ModelWatch(self._stated, self._settings, model, self._metrics.monitoring, self.baseline)
            self._start(model)
        except OptimumError as error:
            self.problem = str(error)
            log.error("model %s was not opened: %s", self.name, error)
        except GivenUp:
            log.info("model %s was not opened: the server stops", self.name)
            raise
        except Exception as error:  # a fault of a backend or of ours: the other models are opened
            self.problem = f"{type(error).__name__}: {error}"
            log.exception("model %s was not opened", self.name)

    def give_up(self) -> None:
        """End the opening, which runs in another thread: it raises `GivenUp` at the next stage of its search."""
        self._is_given_up = True

    def _opened(self) -> AcceleratedModel:
        if self._is_given_up:
            raise GivenUp
        stated, source = self._stated, Path(self._stated.source).expanduser()
        if (source / "optimum.json").is_file():
            return load(source, target=stated.target)
        log.info("accelerating %s; the next start finds it in the cache", stated.source)
        return accelerate(
            stated.source,
            target=stated.target or "auto",
            task=stated.task,
            objective=stated.objective,
            progress=self._go_on,
        )

    def _go_on(self, event: Event) -> None:
        if self._is_given_up:
            raise GivenUp

    async def replace(self, model: AcceleratedModel) -> None:
        """Let another form of the model answer from now on; what waits for the former is answered, then it is freed."""
        await asyncio.to_thread(warm, model, self._generation)
        workers = await asyncio.to_thread(self._begun, model)
        former = self._model, self._workers
        self._model, self._workers = model, workers  # in the event loop: no request finds half of it
        await asyncio.to_thread(freed, *former)

    def _start(self, model: AcceleratedModel) -> None:
        self._workers = self._begun(model)
        self._model = model
        self._metrics.waiting.set_function(lambda: self.depth)

    def _begun(self, model: AcceleratedModel) -> Workers:
        return begun(self.name, model, partial(self._run, model), self._settings, self._metrics)

    def close(self) -> None:
        """Answer what waits, and free the model."""
        freed(self._model, self._workers)
        if self._watch is not None:
            self._watch.close()

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self._model is not None

    @property
    def watch(self) -> ModelWatch:
        """The watch over it, once it answers."""
        assert self._watch is not None
        return self._watch

    @property
    def model(self) -> AcceleratedModel:
        """The accelerated model.

        Raises:
            RequestError: it is being opened (503), or could not be.
        """
        if self._model is not None:
            return self._model
        if self.problem:
            raise RequestError(status=503, kind="unavailable", message=f"model {self.name!r} could not be opened")
        raise RequestError(
            status=503, kind="loading", message=f"model {self.name!r} is being opened", headers={"Retry-After": "2"}
        )

    @property
    def depth(self) -> int:
        """The number of inputs and texts that wait."""
        return self._workers.depth

    @property
    def writing(self) -> str:
        """The way in which texts are written at once: in turns, or together; empty: it writes none."""
        return self._workers.writing

    @property
    def writes(self) -> bool:
        """Whether it writes text."""
        return self._workers.writer is not None

    # Its answers.

    async def rows(
        self,
        texts: Sequence[Text],
        output: str,
        *,
        prompt: str | None = None,
        truncate: bool | None = None,
        side: Side | None = None,
    ) -> Rows:
        """Return an output of the model for every text.

        Args:
            prompt: put before each; None: the model's own default, if it has one.
            truncate: cut what is too long, instead of refusing it; None: as the server's settings say.
            side: where it is cut then; None: as the tokenizer states.

        Raises:
            RequestError: there are too many texts, one is empty or too long, or too many wait.
        """
        self.check_number(len(texts))
        if (number := next((number for number, text in enumerate(texts) if not any(text)), None)) is not None:
            raise empty(f"input {number}")
        check_size(texts, self._settings)
        prompt = self.default_prompt if prompt is None else prompt
        truncate = self._settings.auto_truncate if truncate is None else truncate
        manner = Manner(tokenize=self._tokenize, prompt=prompt, truncate=side or True if truncate else False)
        items = await self._tokenizing.inputs(texts, manner)
        lengths = [len(item[_IDS]) for item in items]
        check_lengths(lengths, self.longest)
        return await self.run(items, output, lengths)

    async def read(self, texts: Sequence[Any], how: Callable[[Sequence[Any], str, Cut], Sequence[Any]]) -> list[Any]:
        """Return what `how` makes of texts, in the threads that tokenize; it is given no prompt, and cuts nothing."""
        self.check_number(len(texts))
        return list(await self._tokenizing.inputs(texts, Manner(tokenize=how, prompt="", truncate=False)))

    async def run(self, items: Sequence[Any], output: str, lengths: Sequence[int]) -> Rows:
        """Return an output of the model for inputs by name, one item each without the batch axis, or for pictures or
        sounds."""
        self.check_number(len(items))
        _ = self.model
        check_values(self.outputs.get(output, ()), sum(lengths))
        found = await self._batcher().submit([(output, item) for item in items], lengths)
        self.watch.answered(items, output, found)
        return Rows(values=found, tokens=sum(lengths))

    async def call(self, arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        """Return all outputs of one call with a batch of the client's own.

        Raises:
            RequestError: the batch is greater than the settings allow, or too many wait.
        """
        _ = self.model
        check_batch(arrays, self.batched, self._settings)
        (found,) = await self._batcher().submit([(None, arrays)], [max(tokens_of(arrays), 1)])
        self.watch.called(arrays, found)
        return dict(found)

    def _batcher(self) -> Batcher:
        if self._workers.batcher is None:
            raise invalid(f"model {self.name!r} writes text, and does nothing else", "not_supported", 501)
        return self._workers.batcher

    def check_number(self, count: int) -> None:
        """Refuse more inputs than one request may have."""
        check_number(count, self._settings)

    def _tokenize(self, texts: Sequence[Any], prompt: str, truncate: Cut) -> list[Mapping[str, Any]]:
        return self.model.tokenize(texts, prompt=prompt, truncation=truncate)

    def _run(self, model: AcceleratedModel, batch: list[tuple[str | None, Any]]) -> Sequence[Any]:
        """Run a batch; in a thread of the batcher."""
        found = [None] * len(batch)
        for output in dict.fromkeys(output for output, _ in batch):
            places = [number for number, (wanted, _) in enumerate(batch) if wanted == output]
            for place, answer in zip(places, self._answers(model, output, [batch[n][1] for n in places]), strict=True):
                found[place] = answer
        return found

    def _answers(self, model: AcceleratedModel, output: str | None, items: list[Any]) -> Sequence[Any]:
        if output == SPARSE:
            return sparse_rows(model, items, self.vocabulary, self.watch.batch)
        if output is not None:
            found: Sequence[Any] = model.map(items, batch_size=len(items), progress=False, outputs=[output])[output]
            self.watch.batch(items)
            return found
        named = (model.named_outputs(dict(arrays)) for arrays in items)
        answers = [{name: np.asarray(value) for name, value in outputs.items()} for outputs in named]
        for arrays in items:
            self.watch.arrays(arrays)
        return answers

    # Text that it writes.

    async def prompt(self, given: Any) -> Prompt:
        """Return a text, a chat or ids with their number of tokens; for a model that sees, a chat.

        Raises:
            RequestError: there is no room for an answer.
        """
        if not self.writes:
            _ = self.model
            raise invalid(f"model {self.name!r} writes no text", "not_supported", 501)
        if self.sees:
            given = await asyncio.to_thread(self.model.prepare_chat, given)
        tokens = await self._number_of_tokens(given)
        longest = self.longest
        taken = tokens if self.writes_behind else 0
        room = self._settings.max_new_tokens if longest is None else longest - taken
        if longest is not None and min(room, longest - tokens + 1) < 1:
            raise invalid(f"the prompt has {tokens} tokens, and the model takes {longest}", "too_long")
        most = self._settings.max_new_tokens
        is_limited = longest is None or most < room
        return Prompt(value=given, tokens=tokens, room=min(room, most), is_limited=is_limited)

    async def _number_of_tokens(self, given: Any) -> int:
        if isinstance(given, TokenIds | PreparedChat):
            return given.length if isinstance(given, PreparedChat) else len(given)
        manner = Manner(tokenize=self._tokenize, prompt="", truncate=not isinstance(given, str))
        (item,) = await self._tokenizing.inputs([given], manner)
        return len(item[_IDS])

    def write(
        self, prompt: Prompt, stop: Sequence[str], settings: Mapping[str, Any], logprobs: int | None = None
    ) -> AsyncIterator[str]:
        """Yield the pieces of a text as they come: one for each token, which may be empty, and the rest.

        Args:
            logprobs: pieces are `ScoredPiece`s with so many likeliest tokens.
        """
        writer = self._workers.writer
        assert writer is not None  # `prompt` has checked it
        together, join, given = self._workers.together, None, {**self._generation, **settings}
        if together is not None and together.takes(prompt.tokens, logprobs=logprobs, **given):
            join = partial(together.begin, prompt.value, tuple(stop), logprobs=logprobs, **given)
        return self._noted(prompt, writer.write(lambda: self._pieces(prompt, stop, settings, logprobs), join))

    def caption(self, item: Mapping[str, Any], most: int | None) -> AsyncIterator[str]:
        """Yield an empty piece for each token of what is on a picture, and then the text.

        Args:
            item: its inputs by name, without the batch axis.
            most: the greatest number of tokens; None: as the model states.
        """
        writer = self._workers.writer
        assert writer is not None  # `captions` has checked it
        arrays = {name: np.asarray(value)[None] for name, value in item.items()}
        settings: dict[str, Any] = {**self._generation, **({} if most is None else {"max_new_tokens": most}), **arrays}

        def pieces() -> Iterator[str]:
            ids: list[int] = []
            for row in self.model.generate(stream=True, **settings):
                ids.append(int(row[0]))
                yield ""
            yield self.model.plain_tokenizer.decode(ids, skip_special_tokens=True).strip()

        return self._noted(Prompt(value=None, tokens=1, room=0), writer.write(pieces))

    async def _noted(self, prompt: Prompt, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        """Yield the pieces, and take note of the text at its end."""
        number = 0
        async with aclosing(cast(AsyncGenerator[str, None], pieces)) as each:
            try:
                async for piece in each:
                    number += 1
                    yield piece
            finally:
                self.watch.wrote(prompt.tokens, number)

    def _pieces(
        self, prompt: Prompt, stop: Sequence[str], settings: Mapping[str, Any], logprobs: int | None
    ) -> Iterator[str]:
        given = {**self._generation, **settings}
        pieces = self.model.generate([prompt.value], stream=True, stop=tuple(stop), logprobs=logprobs, **given)
        return (row[0] for row in pieces)
