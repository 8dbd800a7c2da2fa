"""The original of a model of pictures or sound with text, with its language model in a backend.

Its own code does all but the layers of the language model: towers, projector, embedding, the merge of what the towers
see into the text, masks and positions, and `generate`. In place of the language model stands one that hands the
embeddings to a decoder: `Merged`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from optimum_core.generation.decoder_session import Context, Decoder, Generation, RunPart, counted
from optimum_core.models.decoders.generate import StateCache, check_cache, refuse, refuse_quantized
from optimum_core.models.decoders.language_module import FEATURES, ONE_KIND, PLACES
from optimum_core.models.eager.calls import as_tensor, fresh
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.multimodal.tower_calls import TowerCalls, TowerStub
from optimum_core.types import State
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import ADDED, VISIBLE

#: The layers of a language model, which the merge does without.
LAYERS = "layers"
_CACHE = "past_key_values"


class MergedCache(StateCache):
    """The cache of a generation behind a merge; masks are made for all positions that it holds."""

    is_compileable = False

    def __init__(self, decoder: Decoder, generation: Generation | None = None) -> None:
        super().__init__(decoder, generation)
        #: The original that made the first call: some keep there what later positions are counted from.
        self.face: Any = None

    @property
    def is_initialized(self) -> bool:
        return self.get_seq_length() > 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> MergedCache:
        made = MergedCache(self._decoder, self.generation.fork() if self.generation is not None else None)
        made.face = fresh(self.face) if self.face is not None else None
        return made


class LanguageStub:
    """The methods of a language model that hands its embeddings to the decoder behind a `MergedCache`."""

    #: The number of last positions to compute logits for, 0 for all; or their indices.
    kept: Any = 0
    #: The mask of positions as the original was given it, where the language model gets those of pairs.
    places: torch.Tensor | None = None
    #: Kinds of layers that have masks of pairs.
    visible: tuple[str, ...] = ()
    #: Names of inputs for features that layers add.
    added: tuple[str, ...] = ()
    #: Whether attention without a mask sees only what is before it.
    all_see_before: bool

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: MergedCache | None = None,
        **further: Any,
    ) -> BaseModelOutputWithPast:
        assert past_key_values is not None
        rows, new = inputs_embeds.shape[:2]
        generation = past_key_values.begun(rows)
        mask = self.places if self.visible else attention_mask
        logits = generation.step(
            inputs_embeds.detach().numpy(),
            mask.long().numpy() if mask is not None else None,
            "assumed" if position_ids is None else _positions(position_ids)[..., -new:],
            self.kept if isinstance(self.kept, np.ndarray) else np.arange(new)[-self.kept :],
            {
                **self._pairs(attention_mask, generation.length, (rows, new)),
                **dict(self._features(further, inputs_embeds)),
            },
        )
        return BaseModelOutputWithPast(last_hidden_state=torch.from_numpy(logits), past_key_values=past_key_values)

    def _pairs(self, given: Any, past: int, size: tuple[int, int]) -> dict[str, NDArray]:
        """Return the masks of pairs as inputs of the decoder, from a language model's argument."""
        rows, new = size
        masks = given if isinstance(given, Mapping) else {ONE_KIND: given}
        whole = np.ones((rows, new, past + new), np.int64)
        default = np.tril(whole, past) if self.all_see_before else whole
        return {
            VISIBLE + kind: default if masks[kind] is None else _seen(masks[kind], whole.shape) for kind in self.visible
        }

    def _features(self, given: Mapping[str, Any], embeds: torch.Tensor) -> Iterator[tuple[str, NDArray]]:
        """Yield the features that layers add as inputs of the decoder: at all positions, zeros where there are none."""
        found = given.get(FEATURES)
        for index, name in enumerate(self.added):
            made = torch.zeros_like(embeds)
            if found is not None:
                made[given[PLACES]] = found[index]
            yield name, made.detach().numpy()


def _positions(positions: torch.Tensor) -> NDArray:
    """Return position ids without those of the text that stand before three axes: they tell packed texts apart.

    Some originals count all positions of the mask, those in the cache too; the new ones are the last.
    """
    return positions[1:].numpy() if positions.ndim == 3 and len(positions) == 4 else positions.numpy()


def _seen(mask: torch.Tensor, size: tuple[int, int, int]) -> NDArray:
    """Return a mask of pairs, of booleans or added to scores, as ones and zeros [rows, new, total]."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    return np.array(np.broadcast_to(seen[:, 0].numpy(), size), dtype=np.int64, order="C")


class Merged:
    """The methods of the original with its language model in a backend; a subclass of it and of the original's class
    is made for every model."""

    _who: str
    _decoder: Decoder
    _language: LanguageStub

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        refuse(self._who, kwargs)
        given = kwargs.get(_CACHE)
        cache = self.cache(given)
        self._language.kept = _kept(kwargs.pop("logits_to_keep", 0))
        mask = kwargs.get("attention_mask")
        self._language.places = mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        wanted, kwargs[_CACHE] = kwargs.pop("use_cache", None), cache
        kwargs |= {"use_cache": True, "return_dict": True}
        with torch.no_grad():
            answer = super().forward(*args, **kwargs)  # type: ignore[misc]
        if wanted is not False or given is not None:
            return answer
        cache.close()
        return type(answer)(**{name: value for name, value in answer.items() if name != _CACHE})

    def cache(self, given: Any = None) -> MergedCache:
        """Return the cache passed, or a new one.

        Raises:
            InputError: another kind of cache was passed, which holds what no backend can take over, or that of another
                model.
        """
        if given is not None:
            check_cache(self._who, given, self._decoder, MergedCache)
        made = given if given is not None else MergedCache(self._decoder)
        made.face = self if made.face is None else made.face
        return made

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        refuse_quantized(self._who, generation_config)
        given = model_kwargs.get(_CACHE)
        if given is not None:
            self.cache(given)._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs[_CACHE] = self.cache()

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
        """Return the outputs of one call by name, as arrays."""
        answer = self.forward(**{name: as_tensor(value) for name, value in inputs.items()}, use_cache=False)
        return {name: tensor.detach().numpy() for name, tensor in flatten(answer).items()}


def _kept(wanted: Any) -> Any:
    """Return the positions to compute logits for, as the stub takes them."""
    return wanted.numpy() if isinstance(wanted, torch.Tensor) and wanted.ndim else int(wanted)


def stripped(original: Any) -> Any:
    """Return a throwaway copy of the original without its language model's layers and output layer."""
    made: Any = fresh(original)
    head = made.get_output_embeddings()
    language = made.get_decoder()
    layers = language._modules.pop(LAYERS, None)
    if layers is not None:
        language.all_see_before = sees_before(layers)
    for parent, name in _holders(made, head):
        parent._modules[name] = torch.nn.Identity()
    return made


def sees_before(layers: Any) -> bool:
    """Whether attention without a mask sees only what is before it, as the layers say; else it sees all."""
    return all(getattr(module, "is_causal", True) for module in layers.modules())


def merged_with(
    original: Any, decoder: Decoder, who: str, kinds: tuple[str, ...], towers: Sequence[TowerCalls] = ()
) -> Any:
    """Return a throwaway copy of the original whose language model is in a backend.

    Args:
        original: as `stripped` returns it.
        kinds: kinds of layers that have masks of pairs.
        towers: those that are in a backend too.
    """
    face: Any = fresh(original)
    for calls in towers:
        tower = face.get_submodule(calls.record.path)
        tower.__dict__.update(_calls=calls, _arguments=inspect.signature(type(tower).forward.__get__(tower)))
        tower.__class__ = _class_of(TowerStub, type(tower))
    language = face.get_decoder()
    language.__class__ = _class_of(LanguageStub, type(language))
    language.visible = kinds
    language.added = tuple(spec.name for spec in decoder.session.inputs if spec.name.startswith(ADDED))
    face.__class__ = _class_of(Merged, type(face))
    face.__dict__.update(_who=who, _decoder=decoder, _language=language)
    return face


_CLASSES: dict[tuple[type, type], type] = {}


def _class_of(methods: type, original: Any) -> type:
    """Return the subclass of an original's class with these methods; its call has the original's signature."""
    key = (methods, original)
    if key not in _CLASSES:
        made: Any = type(original.__name__, key, {"__module__": original.__module__})
        if methods is not LanguageStub:
            own: Any = methods
            made.forward = functools.wraps(original.forward)(
                lambda self, *args, **kwargs: own.forward(self, *args, **kwargs)
            )
        _CLASSES[key] = made
    return _CLASSES[key]


def _holders(module: Any, wanted: Any) -> Iterator[tuple[Any, str]]:
    """Yield the modules that hold another, with its name there."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is wanted:
                yield parent, name


class MergedDecoder(Decoder):
    """A decoder of ids, behind the merge: the original's own code makes embeddings of them.

    Args:
        original: as for `merged_with`.
        before: what the first call takes beside ids and mask: pictures, and which ids stand for them.
    """

    def __init__(
        self,
        inner: Decoder,
        original: Any,
        kinds: tuple[str, ...],
        towers: Sequence[TowerCalls] = (),
        before: Mapping[str, NDArray] | None = None,
    ) -> None:
        super().__init__(inner.session, inner._bind)
        self.longest = inner.longest
        self._original, self._kinds, self._towers, self._before = original, kinds, towers, dict(before or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> MergedDecoder:
        return self  # copies of the original share it

    def behind(self, before: Mapping[str, NDArray]) -> MergedDecoder:
        """Return the same decoder with what the first call of a generation takes beside ids and mask."""
        made = MergedDecoder(self, self._original, self._kinds, self._towers, before)
        made.longest = self.longest
        return made

    def face(self, who: str = "") -> Any:
        """Return the original with this decoder: one call or generation at a time."""
        who = who or f"backend {self.session.backend!r}"
        return merged_with(self._original, self, who, self._kinds, self._towers)

    def resumed(self, state: State, mask: NDArray, context: Context | None) -> MergedGeneration:
        return MergedGeneration(self, state, self._bind(state), mask, context)


class MergedGeneration(Generation):
    """The state of one generation behind the merge."""

    def __init__(
        self, decoder: MergedDecoder, state: State, run: RunPart, mask: NDArray, context: Context | None
    ) -> None:
        super().__init__(decoder, state, run, mask, context)
        self._merged = decoder
        self._cache: MergedCache | None = None

    def feed(
        self, ids: NDArray, mask: NDArray | None = None, positions: Any = "assumed", keep: Any = "all",
    ) -> NDArray:  # fmt: skip
        """Run the original on new ids, and on pictures where they are the first."""
        if self._cache is None:
            self._cache = self._new_cache(self._merged.face())
        first = self._merged._before if self.length == 0 else {}
        whole, new = self._whole_mask(mask, ids.shape[1]), ids.shape[1]
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": whole, **first}
        if self._merged.positions is not None and not isinstance(positions, str):
            inputs["position_ids"] = positions
        elif self._merged.positions is not None and positions == "counts" and not self._merged._before:
            inputs["position_ids"] = counted(whole, new)
        if isinstance(keep, str):
            keep = 0 if keep == "all" else 1
        answer = self._cache.face.forward(
            **{name: as_tensor(value) for name, value in inputs.items()},
            past_key_values=self._cache,
            logits_to_keep=as_tensor(keep) if isinstance(keep, np.ndarray) else keep,
        )
        logits: NDArray = answer.logits.numpy()
        return logits

    def _new_cache(self, face: Any) -> MergedCache:
        made = MergedCache(self._merged, self)
        made.face = face
        return made

    def crop(self, length: int) -> None:
        super().crop(length)
        if length == 0:
            self._cache = None

    def fork(self) -> Generation:
        made = super().fork()
        if self._cache is not None and isinstance(made, MergedGeneration):
            made._cache = made._new_cache(fresh(self._cache.face))
        return made
