"""The description of a model that takes pictures or sound beside text and writes text, found by trial.

Its language model becomes a decoder of embeddings; the rest of it stays the original's own code, in torch (`merging`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_core.generation.decoder_session import Decoder
from optimum_core.models.decoders.description import NotADecoderError, layer_states, own_inputs, state_of
from optimum_core.models.decoders.eager_state import EagerDecoderSession
from optimum_core.models.decoders.language_module import FEATURES, ONE_KIND, PLACES
from optimum_core.models.eager.calls import alike, ask, fresh
from optimum_core.models.inputs.samples import Case
from optimum_core.models.multimodal.merge_session import EagerMergeSession, language_caller
from optimum_core.models.multimodal.merging import LAYERS, sees_before, stripped
from optimum_core.models.signatures.decoder_signature import TRACED, DecoderSignature, MergeSignature
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_core.types.state import ADDED, EMBEDS, VISIBLE

_TAKEN = frozenset(
    {EMBEDS, "attention_mask", "position_ids", "past_key_values", "use_cache", "input_ids", PLACES, FEATURES}
)


@dataclass(kw_only=True, slots=True)
class _WholeCall:
    """One call of the whole model, and what it handed to its language model."""

    inputs: Arrays
    answer: Any
    handed: Mapping[str, Any]


def describe_pictures(module: Any, signature: ModelSignature) -> DecoderSignature:
    """Return the interface of the model as a decoder of embeddings behind the original's own merge.

    Raises:
        NotADecoderError: it has no language model of its own, or that takes more than embeddings and a mask.
    """
    _require_language_model(module, signature)
    observed = _called(module, signature)
    rows, length, width = observed.handed[EMBEDS].shape
    layers = layer_states(observed.answer.past_key_values.layers, (rows, length))
    state = state_of(layers)
    logits = next(spec for spec in signature.outputs if spec.name == "logits")
    ids = next(spec for spec in signature.inputs if spec.name == "input_ids")
    positions = _positions(module, observed)
    own = own_inputs(ids, "places" if positions is not None else None)
    embeds = TensorSpec(name=EMBEDS, dtype="float32", shape=("batch", "sequence", int(width)))
    made = DecoderSignature(
        inputs=(
            embeds,
            own[1],
            *([positions] if positions is not None else []),
            *_masks(observed),
            *_features(observed),
            own[-1],
        ),
        outputs=(TensorSpec(name="logits", dtype=logits.dtype, shape=("batch", "kept", logits.shape[-1])),),
        state=state,
        greatest=ids.greatest if ids.greatest is not None else int(logits.shape[-1]) - 1,
        merge=MergeSignature(
            inputs=signature.inputs,
            outputs=signature.outputs,
            texts=tuple(own),
            placeholders=tuple(_placeholders(module)),
            reads_ahead=not sees_before(module.get_decoder()),
        ),
    )
    _check(module, observed, made)
    return made


def _require_language_model(module: Any, signature: ModelSignature) -> None:
    outputs = {spec.name for spec in signature.outputs}
    if "logits" not in outputs:
        raise NotADecoderError("a call returns no logits")
    names = {spec.name for spec in signature.inputs}
    if "input_ids" not in names or "attention_mask" not in names:
        raise NotADecoderError("it takes no ids with a mask")
    if not str(type(module).__module__).startswith("transformers."):
        raise NotADecoderError("its class is none of transformers, and could not be found again without its code")
    if not hasattr(module, "get_decoder") or module.get_output_embeddings() is None:
        raise NotADecoderError("it has no language model with an output layer")
    if LAYERS not in getattr(module.get_decoder(), "_modules", {}) or module.get_decoder() is module:
        raise NotADecoderError("its language model has no list of layers")


def _called(module: Any, signature: ModelSignature) -> _WholeCall:
    inputs = signature.draw(Case(name="merge", padding="none"))
    handed = dict[str, Any]()
    copy: Any = fresh(module)
    copy.get_decoder().register_forward_pre_hook(lambda _, args, kwargs: handed.update(kwargs), with_kwargs=True)
    try:
        with torch.no_grad():
            tensors = {name: torch.as_tensor(array) for name, array in inputs.items()}
            answer = copy(**tensors, use_cache=True, return_dict=True)
    except Exception as error:
        raise NotADecoderError(f"it does not run with a cache: {error}") from error
    if handed.get(EMBEDS) is None:
        raise NotADecoderError("its language model is not called with embeddings")
    further = sorted(name for name, value in handed.items() if name not in _TAKEN and _is_content(value))
    if further:
        raise NotADecoderError(f"its language model takes more than embeddings: {', '.join(further)}")
    if not getattr(getattr(answer, "past_key_values", None), "layers", None):
        raise NotADecoderError("a call returns no cache of keys and values")
    return _WholeCall(inputs=inputs, answer=answer, handed=handed)


def _is_content(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | str | int | float)


def _positions(module: Any, observed: _WholeCall) -> TensorSpec | None:
    """Return the input for positions; None: the language model takes none."""
    import inspect

    if "position_ids" not in inspect.signature(module.get_decoder().forward).parameters:
        return None
    given = observed.handed.get("position_ids")
    axes: tuple[int, ...] = ()
    if given is not None and given.ndim == 3:
        axes = (len(given) - 1 if len(given) == 4 else len(given),)
    elif getattr(module.config.get_text_config(), "rope_parameters", None) and _has_sections(module):
        axes = (3,)
    return TensorSpec(name="position_ids", dtype="int64", shape=(*axes, "batch", "sequence"), default="places")


def _has_sections(module: Any) -> bool:
    return "mrope_section" in str(module.config.get_text_config().rope_parameters)


def _masks(observed: _WholeCall) -> Iterator[TensorSpec]:
    """Yield the masks of pairs that the language model is handed."""
    given = observed.handed.get("attention_mask")
    kinds = list(given) if isinstance(given, Mapping) else [ONE_KIND]
    if given is None or (isinstance(given, torch.Tensor) and given.ndim == 2):
        return
    for kind in kinds:
        yield TensorSpec(name=VISIBLE + kind, dtype="int64", shape=("batch", "sequence", "total"))


def _features(observed: _WholeCall) -> Iterator[TensorSpec]:
    """Yield the features that the first layers of the language model add."""
    for index, features in enumerate(observed.handed.get(FEATURES) or ()):
        shape = ("batch", "sequence", int(features.shape[-1]))
        yield TensorSpec(name=f"{ADDED}{index:02d}", dtype="float32", shape=shape)


def _placeholders(module: Any) -> Iterator[int]:
    """Yield ids that stand for something else than text: a text that has them would need pictures."""
    vocabulary = module.get_output_embeddings().weight.shape[0]
    for name, value in vars(module.config).items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int) and 0 <= value < vocabulary:
            yield value


def merge_of(module: Any, made: DecoderSignature) -> tuple[EagerMergeSession, Decoder]:
    """Return the eager language model as a decoder, and the merge before it."""
    caller = language_caller(fresh(module), made.inputs)
    session = EagerDecoderSession(inputs=made.inputs, outputs=made.outputs, state=made.state, module=caller)
    assert made.merge is not None
    merge = EagerMergeSession(inputs=made.merge.inputs, outputs=made.merge.outputs, original=stripped(module))
    return merge, Decoder(session, lambda state: state.run)


def _check(module: Any, observed: _WholeCall, made: DecoderSignature) -> None:
    """Compare the parts with a call of the whole, and with one of several texts, some padded on the left."""
    merge, decoder = merge_of(module, made)
    behind = merge.before(decoder)
    for inputs in (observed.inputs, _texts(made)):
        try:
            wanted = ask(module, inputs).logits
        except Exception as error:
            raise NotADecoderError(f"it does not read texts alone: {error}") from error
        try:
            found = torch.as_tensor(behind.face().outputs(inputs)["logits"])
        except Exception as error:
            raise NotADecoderError(f"its parts do not run alone: {error}") from error
        kept = torch.as_tensor(inputs["attention_mask"]) == 1
        if not alike(wanted[kept], found[kept]):
            raise NotADecoderError("its parts compute something else than the whole")


def _texts(made: DecoderSignature) -> Arrays:
    assert made.merge is not None
    tokens = np.setdiff1d(np.arange(made.greatest + 1), made.merge.placeholders)
    ids = np.random.default_rng(3).choice(tokens, (2, TRACED["source"]))
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}
