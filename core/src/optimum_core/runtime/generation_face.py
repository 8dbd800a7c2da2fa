"""The members of an accelerated model that generate, and calls that continue from a cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact import LIVE, Manifest
from optimum_core.errors import InputError, OptionError, UnavailableError
from optimum_core.generation.continuous import ContinuousTexts, compared_batch
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.model_session import EncoderDecoderSession, GenerativeSession
from optimum_core.generation.scores import check_logprobs
from optimum_core.generation.settings import Settings, read_settings
from optimum_core.generation.text import TextCodec, checked_stops, generate_texts, read_codec, stream_rows, stream_texts
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answerer
from optimum_core.runtime.encoder_decoder_calls import EncoderDecoderCalls
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.runtime.merged_calls import MergedCalls, is_chats
from optimum_core.runtime.without_cache import generating_pipeline, no_cache_error
from optimum_core.types import ContinuousLimits, PreparedChat, Session, TokenIds
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import IDS

_STATE_ARGUMENTS = ("past_key_values", "cache_params", "use_cache", "logits_to_keep", "cache_position")
#: The cache in an answer, by whether the original's class has the name of models without attention for it.
_CACHES = ("past_key_values", "cache_params")
#: Differences of scores, relative to the greatest, that continuous batching may have at most.
_MOST_DIFFERENT = 0.02


class GenerativeFace(EncoderDecoderCalls, MergedCalls):
    """The members for generation; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    directory: Path
    _beside: FilesBeside
    config: Any
    generation_config: Any
    _who: str
    _session: Session
    _source: Any
    _checker: InputChecker
    _answerer: Answerer

    def can_generate(self) -> bool:
        """Whether `generate` works: the model is a decoder, and its backend keeps the cache; or it runs eagerly.

        Raises:
            UnavailableError: it does not, and a pipeline of transformers asks that would go on to generate.
        """
        can = isinstance(self._session, GenerativeSession) or self._eager_generator is not None
        task = None if can else generating_pipeline(sys._getframe(1), self.manifest.model.class_name)
        if task is not None:
            raise no_cache_error(self._who, self.manifest, f"; pipeline({task!r}) would generate")
        return can

    @cached_property
    def _eager_generator(self) -> Any:
        """The eager model, where it runs as it is and keeps a cache of a kind that no backend does; else None."""
        if isinstance(self._session, GenerativeSession) or self.manifest.format != LIVE or self._source is None:
            return None
        module = self._source.module()
        return module if getattr(module, "can_generate", bool)() else None

    @cached_property
    def _decoder(self) -> Decoder:
        if not isinstance(self._session, GenerativeSession):
            raise no_cache_error(self._who, self.manifest)
        decoder = self._session.decoder
        is_own = self._parts is not None and self._text_inputs[0] == IDS
        allowed = self.manifest.axes.get("decoder_sequence" if is_own else "sequence")
        decoder.longest = allowed.greatest if allowed is not None else None
        return decoder

    @property
    def _parts(self) -> EncoderDecoder | None:
        """The encoder with the decoder behind it; None: there is no encoder."""
        return self._session.parts if isinstance(self._session, EncoderDecoderSession) else None

    @cached_property
    def _host(self) -> Any:
        """The model as transformers' `GenerationMixin` sees it."""
        if self._is_merged:
            return self._merged_host()
        from optimum_core.models.decoders.generate import Host

        decoder, parts = self._decoder, self._parts
        if parts is not None:
            from optimum_core.models.decoders.captioner_generate import captioner_host
            from optimum_core.models.decoders.encoder_decoder_generate import host_for

            model, original = self.manifest.model, getattr(self._source, "module", None)
            known = (model.class_name, self._who, parts, self.config, lambda: self.generation_config)
            return captioner_host(*known) or host_for(
                *known, main_input=model.main_input, ignored=self.manifest.ignored_inputs, original=original
            )
        return Host(self._who, decoder, self.config, lambda: self.generation_config)

    @property
    def has_chat_template(self) -> bool:
        """Whether it takes chats: its tokenizer has a template that writes them as text."""
        try:
            return self._codec.template is not None
        except UnavailableError:  # there is no tokenizer, or no package that reads it
            return False

    def room_behind(self, prompt: Any) -> int | None:
        """Return the greatest number of new tokens that `generate` writes behind a text or a chat; None: no limit is
        known. Behind an encoder, the text takes no place among the positions of the decoder."""
        longest = self._decoder.longest
        return longest if longest is None or self._parts is not None else longest - len(self._codec.ids_of(prompt))

    @cached_property
    def _codec(self) -> TextCodec:
        return read_codec(self._beside.checked(), self._who)

    def generate(
        self,
        inputs: Any = None,
        generation_config: Any = None,
        *,
        stop: str | Sequence[str] | None = (),
        stream: bool = False,
        logprobs: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate new tokens.

        Torch tensors in: `generate` of transformers in full, with all its arguments, and its result. Texts, chats or
        arrays in: the same without torch, greedily or by draws.

        Args:
            inputs: token ids, or without torch also a text, a chat (messages with "role" and "content"; with pictures,
                as `prepare_chat` takes and returns it), `TokenIds` to write text behind, or a list of these.
            generation_config: with torch tensors, settings in place of the model's, as in transformers.
            stop: without torch, texts that end a row; they are not returned.
            stream: without torch, return an iterator of the pieces as they come.
            logprobs: of texts that are streamed: the pieces are `ScoredPiece`s, with the log probabilities of their
                token and of so many likeliest ones.
            kwargs: arguments of transformers' `generate`; without torch, those of
                `optimum_core.generation.settings.Settings`.

        Returns:
            Ids with the prompt, as transformers returns them; for a text or chat the new text, for a list a list.

        Raises:
            UnavailableError: the model does not generate, or a package is missing.
            InputError: the ids, or prompt and new tokens together, are beyond what the model takes.
            OptionError: without torch, an argument is unknown; `stop` or `stream` came with what they do not apply to.
        """
        stops = checked_stops(stop)
        kwargs |= {} if generation_config is None else {"generation_config": generation_config}
        if self._eager_generator is not None:
            self._check_text_only(stops, stream, logprobs)
            return self._generate_eagerly(inputs, kwargs)
        decoder, main = self._decoder, self.manifest.model.main_input
        if self._is_merged and not is_chats(inputs):
            self._check_text_only(stops, stream, logprobs)
            return self._generate_merged(inputs, kwargs)
        given = inputs if inputs is not None else kwargs.get(main)
        if given is None and "torch" not in sys.modules:
            raise InputError(self._who, "there is no prompt", "pass a text, a chat, or token ids")
        if _is_torch(given) or given is None:
            self._check_text_only(stops, stream, logprobs)
            return self._generate_by_transformers(inputs, kwargs)
        mask, start = kwargs.pop("attention_mask", None), None
        if self._parts is not None:
            start = kwargs.pop(self._text_inputs[0], None)
        kwargs.pop(main, None)
        settings = read_settings(self._beside.checked(), kwargs)
        if self._is_merged:
            write = partial(stream_rows, codec=self._codec, settings=settings, stops=stops, logprobs=logprobs)
            return self._generate_chat(given, write, stream=stream, logprobs=logprobs)
        if _is_text(given):
            return self._generate_text(given, settings, stops, stream, logprobs)
        self._check_text_only(stops, False, logprobs)
        mask = settings.mask_of(np.atleast_2d(given)) if mask is None else mask
        if self._parts is not None:
            before = {main: np.asarray(given), **({} if mask is None else {"attention_mask": np.asarray(mask)})}
            (decoder, ids), mask = self._started(before, settings, start), None
        else:
            ids = np.asarray(given)
            ids = ids[None] if ids.ndim == 1 else ids
            self._check_ids(ids)
            ids, mask = ids.astype(np.int64), self._checked_mask(mask)
        tokens = next_tokens(decoder, ids, settings, mask)
        if stream:
            return tokens
        return np.concatenate([ids, *(row[:, None] for row in tokens)], axis=1)

    def continuous_batching(self, limits: ContinuousLimits | None = None) -> ContinuousTexts:
        """Return a writer of many texts at once, each step of which gives every one of them its next token.

        It is compared with this model first, by prompts of several lengths. A runtime of its own holds the weights once
        more; states that are joined do not.

        Args:
            limits: the greatest batch; None: the usual one.

        Raises:
            UnavailableError: the backend does not batch continuously, not for this model, or a package is missing.
            VerificationError: its tokens are not those of this model.
        """
        if type(self._session) is not GenerativeSession:
            why = f"backend {self._session.backend!r} does not batch this model's texts continuously"
            raise UnavailableError(self._who, why, "write one text after another, or several in turns")
        fidelity = self.manifest.fidelity
        tolerance = min(fidelity.tolerance, _MOST_DIFFERENT) if fidelity is not None else _MOST_DIFFERENT
        codec, vocabulary = self._codec, int(self.manifest.outputs[0].shape[-1])
        batch = compared_batch(self._who, self._decoder, limits or ContinuousLimits(), vocabulary, tolerance)
        return ContinuousTexts(batch, codec, self._beside.checked(), self._decoder.longest, self._check_ids)

    @staticmethod
    def _check_text_only(stops: Sequence[str], stream: bool, logprobs: int | None) -> None:
        """Refuse arguments that apply to texts, and to arrays that are written piece by piece, alone.

        Raises:
            OptionError: one of them was passed.
        """
        if stops:
            why = "it ends texts, and tokens came"
            raise OptionError("stop", why, "pass a text or a chat; or, with torch, stop_strings= and tokenizer=")
        if logprobs is not None:
            raise OptionError("logprobs", "they come with texts, and tokens came", "pass a text, a chat or TokenIds")
        if stream:
            raise OptionError("stream", "torch tensors came", "pass streamer=, or a text, a chat or numpy arrays")

    def _generate_by_transformers(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        if self.config is None:
            why = "transformers' generate reads config.json, and there was none beside the model"
            raise UnavailableError(self._who, why, "put it there and open the model again, or pass ids as numpy arrays")
        if kwargs.get("inputs_embeds") is not None:
            raise self._checker.no_input("inputs_embeds")
        if (cache := kwargs.pop("cache_params", None)) is not None:
            kwargs.setdefault("past_key_values", cache)
        main = self.manifest.model.main_input
        if "labels" in self.manifest.model.defaults:
            kwargs.pop("labels", None)  # some processors make them for every text, and `generate` leaves them out
        ids = self._text_inputs[0]
        for name, given in ((main, inputs), (main, kwargs.get(main)), (ids, kwargs.get(ids))):
            if given is not None and getattr(given, "ndim", 0) == 2 and not given.is_floating_point():
                self._check_ids(given.numpy(), name)
            elif _is_torch(given):
                self._checker.check_finite(name, given)
        self._check_room(inputs if inputs is not None else kwargs.get(main), kwargs)
        assistant = kwargs.get("assistant_model")
        if isinstance(assistant, GenerativeFace):
            kwargs["assistant_model"] = assistant._host
        # By position only where it came so: Whisper's `generate` has another name for it.
        return self._host.generate(*([] if inputs is None else [inputs]), **kwargs)

    def _check_room(self, given: Any, kwargs: Mapping[str, Any]) -> None:
        """Refuse a call of transformers' `generate` that asks for more tokens than there are positions, and a mask of
        another length than the ids, of which transformers says no more than that shapes do not fit.

        Raises:
            InputError: it does.
        """
        ids: Any = given if self._parts is None else kwargs.get(self._text_inputs[0])
        mask = kwargs.get("attention_mask") if self._parts is None else None
        if self._parts is None and getattr(ids, "ndim", 0) != 2:
            return
        prompt = 1 if ids is None else ids.shape[-1]
        if mask is not None and kwargs.get("past_key_values") is None and np.shape(mask) != ids.shape:
            why = f"attention_mask is {list(np.shape(mask))}, and input_ids {list(ids.shape)}"
            raise InputError(self._who, why, "pass both as the tokenizer gives them")
        config = kwargs.get("generation_config")
        new, whole = (kwargs.get(name, getattr(config, name, None)) for name in ("max_new_tokens", "max_length"))
        if new is not None or whole is not None:
            new = new if new is not None else whole - prompt
            self._decoder.check_room(prompt if mask is None else int(np.asarray(mask).sum(1).max()), int(new))

    def _generate_eagerly(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """Generate with the eager model, on a copy that shares its weights.

        Raises:
            UnavailableError: what was passed is no torch tensor.
        """
        from optimum_core.models.eager.calls import fresh

        if not any(map(_is_torch, (inputs, *kwargs.values()))):
            why = "it runs eagerly, with a cache that no backend keeps"
            raise UnavailableError(self._who, why, "pass torch tensors, as to the eager model")
        model: Any = fresh(self._eager_generator)
        model.generation_config = self.generation_config
        return model.generate(*([] if inputs is None else [inputs]), **kwargs)

    def _generate_text(
        self, given: Any, settings: Settings, stops: tuple[str, ...], stream: bool, logprobs: int | None
    ) -> str | list[str] | Iterator[Any]:
        check_logprobs(logprobs, stream=stream)
        drives = self._parts or self._decoder
        is_one = isinstance(given, str | TokenIds | PreparedChat) or isinstance(given[0], Mapping)
        prompts = [given] if is_one else list(given)
        for prompt in prompts:
            if isinstance(prompt, PreparedChat):
                raise InputError(self._who, "it takes no pictures in its text", "pass the chat as it was")
            if isinstance(prompt, TokenIds):
                self._check_ids(np.array([prompt], np.int64))
        if stream:
            pieces = stream_texts(drives, self._codec, prompts, settings, stops, logprobs)
            return (row[0] for row in pieces if row[0] or logprobs is not None) if is_one else pieces
        texts = generate_texts(drives, self._codec, prompts, settings, stops)
        return texts[0] if is_one else texts

    def _check_ids(self, ids: NDArray, name: str = "input_ids") -> None:
        """Reject ids that the model does not have.

        Raises:
            InputError: an id is out of range, or the text is too long.
        """
        if ids.size:
            self._checker.check({name: np.asarray(ids)})

    def _checked_mask(self, mask: Any) -> NDArray | None:
        """Return a mask as int64.

        Raises:
            InputError: it is no mask of 0 and 1.
        """
        if mask is None:
            return None
        self._checker.check({"attention_mask": np.asarray(mask)})
        return np.asarray(mask, np.int64)

    # A forward call of a decoder.

    def _call_decoder(self, kwargs: dict[str, Any]) -> Any:
        """Answer as the original's forward does, with a cache handed in or out."""
        stated = {name: kwargs.pop(name, None) for name in _STATE_ARGUMENTS}
        past, wanted, keep = stated["past_key_values"], stated["use_cache"], stated["logits_to_keep"]
        past = stated["cache_params"] if past is None else past
        continues = past is not None and past.get_seq_length() > 0
        mask = kwargs.pop("attention_mask", None) if continues else None
        arrays, torch_in = self._checker.bind((), kwargs)
        if mask is not None:
            arrays["attention_mask"] = np.asarray(mask)
        elif continues:
            arrays.pop("attention_mask", None)
        keeps = torch_in and (getattr(self.config, "use_cache", True) if wanted is None else bool(wanted))
        returned = kwargs.get("return_dict")
        as_tuple = self.manifest.model.returns_tuple if returned is None else not returned
        if past is None and not keeps:
            generation, cache = self._decoder.begin(len(arrays["input_ids"])), None
        else:
            cache = self._host.cache(past)
            generation = cache.begun(len(arrays["input_ids"]))
        if continues and mask is None and generation.holds_padding:
            why = "attention_mask is missing, and the cache holds padding, which would be read as tokens"
            raise InputError(self._who, why, "pass the mask of all positions, those before included")
        positions = arrays.get("position_ids", "assumed")
        logits = generation.feed(
            arrays["input_ids"], arrays.get("attention_mask"), positions, _kept(keep, arrays["input_ids"].shape[1])
        )
        if cache is None:
            generation.close()
        answer = self._answerer.answer({"logits": logits}, as_torch=torch_in)
        if cache is not None:
            answer[_CACHES[hasattr(answer, "cache_params")]] = cache
        return tuple(answer.values()) if as_tuple else answer


def _kept(wanted: Any, new: int) -> NDArray:
    """Return the positions of which logits are wanted: the last ones by number, those stated, or all."""
    if wanted is None or (np.ndim(wanted) == 0 and int(wanted) == 0):
        return np.arange(new)
    return np.arange(max(new - int(wanted), 0), new) if np.ndim(wanted) == 0 else np.asarray(wanted, np.int64)


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_text(given: Any) -> bool:
    """Whether it is a text, a chat, or a list of these, rather than ids.

    Raises:
        InputError: it is an empty list.
    """
    if isinstance(given, str | TokenIds | PreparedChat):
        return True
    if not isinstance(given, list | tuple):
        return False
    if not given:
        raise InputError("generate", "the list is empty", "pass at least one text, chat or row of ids")
    first = given[0]
    return isinstance(first, str | Mapping | TokenIds | PreparedChat) or (
        isinstance(first, list | tuple) and bool(first) and isinstance(first[0], Mapping)
    )
