"""`generate` of transformers on a decoder of any backend: a host for `GenerationMixin`, and a cache that is a state.

All of transformers' ways of decoding run as with the eager model. Its loop costs 1.9 ms of Python for a token, so
greedy decoding and sampling take the short loop of `_sample` below: the same processors, criteria and draws in the same
order, without rebuilding the arguments of a forward call for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from optimum_core.errors import InputError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, Generation, counted

_NOT_KEPT = ("output_attentions", "output_hidden_states", "inputs_embeds", "decoder_inputs_embeds", "labels")


class _Layer:
    """A layer of a cache as transformers asks for its kind; keys and values lie in the backend."""

    def __getattr__(self, name: str) -> bool:
        if name in ("is_compileable", "is_sliding", "supports_early_init"):
            return False
        raise AttributeError(name)

    @property
    def keys(self) -> Any:
        """Raise an error: there is no tensor of them here.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError(
            "past_key_values",
            "the keys and values of its layers lie in the backend, and no tensors of them are here",
            "pass the cache on as it is, crop it or copy it (copy.deepcopy); for tensors, call the eager model",
        )

    values = keys


class StateCache(Cache):  # type: ignore[misc] # transformers states no types
    """The state of a generation as transformers' `Cache`: keys and values stay in the backend.

    It can be passed as `past_key_values` again, cropped, and copied by `copy.deepcopy` to use one prefix twice.
    """

    def __init__(self, decoder: Decoder, generation: Generation | None = None) -> None:
        kept = decoder.session.state.layers if hasattr(decoder.session, "state") else [None]
        super().__init__(layers=[_Layer()] * len(kept))
        self._decoder = decoder
        self.generation = generation

    def begun(self, rows: int) -> Generation:
        """Return the generation; it begins with the first call, which tells the number of rows."""
        if self.generation is None:
            self.generation = self._decoder.begin(rows)
        return self.generation

    def go_after(self, decoder: Decoder) -> None:
        """Go on behind what an encoder gave; before the first call."""
        self._decoder = decoder

    def is_of(self, decoder: Decoder) -> bool:
        """Whether its state is one of this decoder's session."""
        return self._decoder.session is decoder.session

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.generation.length if self.generation is not None else 0

    @property
    def batch_size(self) -> int:
        """The number of rows; -1 before the first call."""
        return self.generation.rows if self.generation is not None else -1

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._select(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.generation is not None:
            self._select([row for row in range(self.generation.rows) for _ in range(repeats)])

    def _select(self, rows: Sequence[int]) -> None:
        if self.generation is not None and list(rows) != list(range(self.generation.rows)):
            self.generation.reorder(rows)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove that many of the last positions; as in transformers, the number is zero or negative.

        Raises:
            ValueError: it is positive, as transformers raises it.
            UnavailableError: the model keeps a state of all it has read.
        """
        if tokens_to_remove > 0:
            why = f"crop({tokens_to_remove}): the number of positions to remove is stated as a negative one"
            raise ValueError(f"past_key_values: {why}. What to do: pass crop(-{tokens_to_remove})")
        if self.generation is not None and tokens_to_remove:
            self.generation.crop(max(self.generation.length + tokens_to_remove, 0))

    @property
    def is_croppable(self) -> bool:
        """Whether positions can be removed."""
        return self._decoder.crops

    def reset(self) -> None:
        self.close()

    def activate_past_recording(self) -> None:
        """Do nothing: all positions are kept."""

    def close(self) -> None:
        """Free the state."""
        if self.generation is not None:
            self.generation.close()
            self.generation = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StateCache:
        return StateCache(self._decoder, self.generation.fork() if self.generation is not None else None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_seq_length()} positions of {len(self)} layers, in the backend)"


class Host(GenerationMixin):  # type: ignore[misc] # transformers states no types
    """The model as `GenerationMixin` needs it, on a decoder.

    Args:
        who: the model, for errors.
        settings: returns the `generation_config` in force.
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)
    base_model_prefix = "model"
    #: Whether a call of the original returns its cache.
    calls_return_cache = True
    #: What transformers calls stateful: it keeps a state from which no tokens can be taken back.
    _is_stateful = False
    _supports_cache_class = True

    def __init__(self, who: str, decoder: Decoder, config: Any, settings: Callable[[], Any]) -> None:
        self._who, self._decoder, self.config, self._settings = who, decoder, config, settings
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._is_stateful = not decoder.crops

    @property
    def generation_config(self) -> Any:
        """The model's settings."""
        return self._settings()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def can_generate(self) -> bool:
        """Whether it generates: always."""
        return True

    @classmethod
    def is_remote_code(cls) -> bool:
        """Whether the model's code comes with its weights: none of it runs here."""
        return False

    def get_experts_implementation(self) -> dict[str, str]:
        """Return nothing: experts are in the graph."""
        return {}

    def _refuse_weights(self) -> Any:
        """Refuse a way of generating that reads weights, as assistants that share those of this model do.

        Raises:
            UnavailableError: always.
        """
        why = "this way of generating with an assistant reads or changes weights, and they lie in the backend"
        remedy = "use the eager model for that; an assistant with another tokenizer goes with do_sample=False"
        raise UnavailableError(self._who, why, remedy)

    get_input_embeddings = get_output_embeddings = get_decoder = _refuse_weights

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **further: Any,
    ) -> CausalLMOutputWithPast:
        """Run the model on new tokens, after those in the cache."""
        refuse(self._who, further)
        if input_ids is None:
            raise InputError(self._who, "input_ids is missing", "pass the tokens")
        cache = self.cache(past_key_values)
        generation = cache.begun(len(input_ids))
        keep = _kept(logits_to_keep, input_ids.shape[1])
        logits = generation.feed(
            input_ids.numpy(),
            attention_mask.numpy() if attention_mask is not None else None,
            position_ids.numpy() if position_ids is not None else "assumed",
            keep,
        )
        keeps = use_cache is not False or past_key_values is not None
        if not keeps:
            cache.close()
        return CausalLMOutputWithPast(logits=torch.from_numpy(logits), past_key_values=cache if keeps else None)

    def cache(self, given: Any = None) -> StateCache:
        """Return the cache passed, or a new one.

        Raises:
            InputError: another kind of cache was passed, which holds what no backend can take over, or that of another
                model.
        """
        if given is None:
            return StateCache(self._decoder)
        check_cache(self._who, given, self._decoder)
        made: StateCache = given
        return made

    def _validate_generation_mode(
        self, generation_mode: GenerationMode, generation_config: Any, generation_mode_kwargs: dict[str, Any]
    ) -> None:
        if generation_mode == GenerationMode.ASSISTED_GENERATION and not self._decoder.crops:
            why = "an assistant and prompt lookup take tokens back, and none can be taken back from its state"
            raise UnavailableError(self._who, why, "generate without assistant_model and prompt_lookup_num_tokens")
        if generation_config.assistant_early_exit is not None:
            why = "assistant_early_exit ends the model after some of its layers, and its graph has no output there"
            raise UnavailableError(self._who, why, "leave it out, or pass an assistant_model")
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        refuse_quantized(self._who, generation_config)
        given = model_kwargs.get("past_key_values")
        if given is not None:
            self.cache(given)._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.cache()

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        cache: StateCache | None = model_kwargs.get("past_key_values")
        mask = model_kwargs.get(self._mask_name)
        is_plain = (
            cache is not None
            and _are_counts(model_kwargs.get(self._positions_name), mask, input_ids)
            and cache.get_seq_length() == 0
            and not generation_config.return_dict_in_generate
            and generation_config.prefill_chunk_size is None
            and not generation_config.is_assistant
        )
        if cache is None or not is_plain:
            return super()._sample(
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **model_kwargs
            )
        loop = SimpleNamespace(processors=logits_processor, criteria=stopping_criteria, config=generation_config)
        return _short_loop(self._first_generation(cache, input_ids, model_kwargs), input_ids, mask, loop, streamer)

    def _first_generation(self, cache: StateCache, ids: torch.Tensor, model_kwargs: dict[str, Any]) -> Generation:
        return cache.begun(len(ids))

    _mask_name, _positions_name = "attention_mask", "position_ids"


def check_cache(who: str, given: Any, decoder: Decoder, kind: type[StateCache] = StateCache) -> None:
    """Refuse a cache that this model did not make.

    Raises:
        InputError: it is of another kind, or its state is one of another model, which would answer in this one's place.
    """
    remedy = "leave it out, or pass the past_key_values that this model returned"
    if not isinstance(given, kind):
        why = f"past_key_values is a {type(given).__name__}, and this model's keys and values are in its backend"
        raise InputError(who, why, remedy)
    if not given.is_of(decoder):
        raise InputError(who, "past_key_values is the cache of another model", remedy)


def refuse_quantized(who: str, generation_config: Any) -> None:
    """Refuse a cache in few bits, which changes tokens; of the other kinds of cache, none does.

    Raises:
        UnavailableError: it is asked for.
    """
    if generation_config.cache_implementation == "quantized":
        why = "cache_implementation='quantized' is a cache in torch, and this model's cache is in its backend"
        raise UnavailableError(who, why, "leave it out, or accelerate with QuantizeConfig(…, cache='int8')")


def refuse(who: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments for which the graphs have no output or input.

    Raises:
        UnavailableError: one of them is asked for.
    """
    for name in _NOT_KEPT:
        value = arguments.get(name)
        if value is not None and value is not False:
            raise UnavailableError(who, f"it has no {name}", "use the eager model for that")


def _are_counts(positions: torch.Tensor | None, mask: torch.Tensor | None, ids: torch.Tensor) -> bool:
    """Whether position ids are those that `generate` makes, rather than the caller's own, and those of new tokens go on
    as the mask counts: after padding on the right, transformers goes on from the padding's."""
    if positions is None:
        return True
    seen = (torch.ones_like(ids) if mask is None else mask).numpy()
    fits = seen.shape == ids.shape and positions.shape in (ids.shape, (1, ids.shape[1]))
    return fits and bool(seen[:, -1:].all() and (positions.numpy() == counted(seen, ids.shape[1])).all())


def _kept(wanted: int | torch.Tensor, new: int) -> Any:
    """Return the positions of which logits are wanted, as transformers' `logits_to_keep` states them."""
    if isinstance(wanted, torch.Tensor) and wanted.ndim:
        return wanted.numpy()
    count = int(wanted)
    return torch.arange(max(new - count, 0) if count else 0, new).numpy()


def _short_loop(
    generation: Generation, ids: torch.Tensor, mask: torch.Tensor | None, loop: SimpleNamespace, streamer: Any
) -> torch.Tensor:
    """Decode greedily or by draws, with the steps of `GenerationMixin._sample` in their order."""
    pad = loop.config._pad_token_tensor
    ends = any(hasattr(item, "eos_token_id") for item in loop.criteria)
    going = torch.ones(len(ids), dtype=torch.long)
    with torch.no_grad():
        logits = generation.feed(ids.numpy(), mask.numpy() if mask is not None else None, "counts", "last")
        while True:
            scores = loop.processors(ids, torch.from_numpy(logits[:, -1]).float())
            if loop.config.do_sample:
                chosen = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
            else:
                chosen = torch.argmax(scores, dim=-1)
            if ends:
                chosen = chosen * going + pad * (1 - going)
            ids = torch.cat([ids, chosen[:, None]], dim=-1)
            if streamer is not None:
                streamer.put(chosen)
            going = going & ~loop.criteria(ids, None)
            if not going.any():
                break
            logits = generation.feed(chosen[:, None].numpy(), None, "counts", "last")
    if streamer is not None:
        streamer.end()
    return ids
