"""The description of an encoder-decoder, found by trial: its encoder, its cross attention, and its decoder's cache.

An encoder-decoder of transformers generates here if its parts, called one by one with a cache filled by hand, compute
what one call of the whole does, with padding in the encoder's input. Otherwise it stays a model of one forward pass;
the reason is in the report.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from optimum_core.errors import first_line
from optimum_core.generation.model_session import text_inputs
from optimum_core.models.decoders.captioner import as_encoder_decoder, is_captioner
from optimum_core.models.decoders.description import (
    NotADecoderError,
    empty,
    filled_layers,
    layer_states,
    own_inputs,
    state_of,
)
from optimum_core.models.decoders.encoder_decoder_module import CrossDecoderModule, CrossModule, EncoderModule
from optimum_core.models.eager.calls import alike, ask, call, fresh
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.decoder_signature import DecoderSignature, EncoderSignature, PartSignature
from optimum_core.models.signatures.signature import ModelSignature, limited
from optimum_core.models.signatures.switches import LONGEST, numbers_of
from optimum_core.types import AxisRange, TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_core.types.state import ENCODER_HIDDEN, ENCODER_MASK, HIDDEN, IDS

log = logging.getLogger(__name__)
IDS_PLACES = "decoder_position_ids"
_ROWS, _LENGTH = 2, 7


@dataclass(kw_only=True, slots=True)
class _WholeCall:
    """A call of the whole model, to compare its parts with.

    Attributes:
        text: the names of the decoder's ids and their mask.
        answer: with a cache.
        whole: the outputs without one.
        made: the outputs of the encoder alone.
    """

    module: Any
    inputs: Arrays
    text: tuple[str, str]
    answer: Any
    whole: Mapping[str, torch.Tensor] = field(default_factory=dict)
    made: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def before(self) -> Arrays:
        """The inputs of the encoder."""
        return {name: array for name, array in self.inputs.items() if name not in self.text}

    @property
    def ids(self) -> torch.Tensor:
        """The decoder's ids."""
        return torch.as_tensor(self.inputs[self.text[0]])


def describe_encoder_decoder(module: Any, signature: ModelSignature) -> DecoderSignature:
    """Return the interface of an encoder-decoder as parts: a decoder, with the parts before it.

    Raises:
        NotADecoderError: it is none, or its parts do not compute what the whole does.
    """
    _require_parts(module, signature)
    observed = _called(module, signature)
    layers = layer_states(observed.answer.past_key_values.self_attention_cache.layers, (_ROWS, _LENGTH))
    state = state_of(layers)
    observed.whole = flatten(ask(module, observed.inputs))
    observed.made = _run(EncoderModule(fresh(module)), observed.before)
    encoder, unread = _encoder(signature, observed)
    cross = _cross(observed, encoder)
    reads_mask = _reads_mask(observed)
    ids = next(spec for spec in signature.inputs if spec.name == observed.text[0])
    logits = next(spec for spec in signature.outputs if spec.name == "logits")
    first, last = _own_inputs(ids, _positions(observed))
    mask_spec = TensorSpec(name=ENCODER_MASK, dtype="int64", shape=("batch", cross.outputs[0].shape[2]))
    mask = (mask_spec,) if reads_mask else ()
    made = DecoderSignature(
        inputs=(*first, *mask, *cross.outputs, last),
        outputs=(TensorSpec(name="logits", dtype=logits.dtype, shape=("batch", "kept", logits.shape[-1])),),
        state=state,
        greatest=ids.greatest if ids.greatest is not None else int(logits.shape[-1]) - 1,
        encoder=EncoderSignature(
            encoder=encoder, cross=cross, eager_inputs=(*first, *mask, *cross.inputs, last), unread=unread
        ),
    )
    _check_parts(observed, made)
    return made


def _require_parts(module: Any, signature: ModelSignature) -> None:
    names = {spec.name for spec in signature.inputs}
    text = set(text_inputs(names))
    others = sorted(name for name in names - text if name.startswith("decoder_"))
    if not _generates_as_usual(type(module)) and not is_captioner(module):
        raise NotADecoderError("its class has a way of generating that is its own")
    if not text <= names or others or names <= text:
        raise NotADecoderError(
            f"its decoder takes something other than tokens: {', '.join(others) or 'no ids or mask'}"
        )
    if any(spec.shape[:1] != ("batch",) for spec in signature.inputs):
        raise NotADecoderError("its inputs have no common batch axis")


def _generates_as_usual(cls: type) -> bool:
    """Whether `generate` is transformers' own, or that of a mixin, which runs on another object too."""
    from transformers import GenerationMixin, PreTrainedModel

    owner = next(base for base in cls.__mro__ if "generate" in vars(base))
    return owner is GenerationMixin or not issubclass(owner, PreTrainedModel)


def _called(module: Any, signature: ModelSignature) -> _WholeCall:
    """Call the model with a cache, some of the encoder's input padded where it has a mask."""
    ids, ids_mask = text = text_inputs([spec.name for spec in signature.inputs])
    lengths = {"batch": _ROWS, axis_of(signature, ids): _LENGTH}
    inputs = signature.draw(Case(name="decoder", lengths=lengths, padding="none"))
    if inputs[ids].shape != (_ROWS, _LENGTH):
        raise NotADecoderError("it takes texts of one length only")
    if _MASK not in text and (mask := inputs.get(_MASK)) is not None:
        mask = np.ones_like(mask)
        mask[1, (2 * mask.shape[1]) // 3 :] = 0
        inputs = {**inputs, _MASK: mask}
    names = {ids: "decoder_input_ids", ids_mask: "decoder_attention_mask"}
    tensors = {names.get(name, name): torch.as_tensor(array) for name, array in inputs.items()}
    try:
        answer = _answered(as_encoder_decoder(fresh(module)), tensors)
    except Exception as error:
        raise NotADecoderError(f"it does not run with a cache: {first_line(error)}") from error
    cache = getattr(answer, "past_key_values", None)
    if cache is None or not hasattr(cache, "cross_attention_cache") or not cache.self_attention_cache.layers:
        raise NotADecoderError("a call returns no cache of its own and of cross attention")
    return _WholeCall(module=module, inputs=inputs, text=text, answer=answer)


def _answered(model: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return a model's answer with its cache: from one call, or from its encoder's and its decoder's as `generate`
    calls them, where the model hands its encoder `use_cache` too (Switch Transformers)."""
    with torch.no_grad():
        try:
            return model(**tensors, use_cache=True, return_dict=True)
        except Exception:  # noqa: BLE001 - models raise errors of any type
            text = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder_")}
            before = {name: tensor for name, tensor in tensors.items() if name not in text}
            output = model.get_encoder()(**before, return_dict=True)
            mask = {_MASK: before[_MASK]} if _MASK in before else {}
            return model(**text, **mask, encoder_outputs=output, use_cache=True, return_dict=True)


def axis_of(signature: ModelSignature, ids: str) -> str:
    """Return the axis of a text's tokens."""
    return str(next(spec.shape[1] for spec in signature.inputs if spec.name == ids))


def _encoder(signature: ModelSignature, observed: _WholeCall) -> tuple[PartSignature, tuple[str, ...]]:
    """Return the interface of the encoder, and the outputs of the whole that generation does not read."""
    known, unread = _hidden(signature, observed)
    outputs = [TensorSpec(name=HIDDEN, dtype=known.dtype, shape=known.shape)]
    if ENCODER_MASK in observed.made:
        outputs.append(TensorSpec(name=ENCODER_MASK, dtype="int64", shape=known.shape[:2]))
    inputs = tuple(spec for spec in signature.inputs if spec.name not in observed.text)
    drawn = {spec.name: signature.draw(Case(name="traced"))[spec.name] for spec in inputs}
    return PartSignature(inputs=inputs, outputs=tuple(outputs), drawn=drawn), unread


def _hidden(signature: ModelSignature, observed: _WholeCall) -> tuple[TensorSpec, tuple[str, ...]]:
    """Return the output of the whole model that is the encoder's, and those that are neither that nor logits.

    Raises:
        NotADecoderError: none is the encoder's, or some cannot be left out.
    """
    others = [spec for spec in signature.outputs if spec.name != "logits"]
    known = [spec for spec in others if alike(observed.made[HIDDEN], observed.whole[spec.name])]
    if not known:
        raise NotADecoderError("a call returns nothing that is the encoder's output")
    unread = tuple(spec.name for spec in others if spec not in known)
    if unread and not signature.structure.keys:
        raise NotADecoderError("a call returns a tuple of more than logits and the encoder's output")
    return known[0], unread


def _cross(observed: _WholeCall, encoder: PartSignature) -> PartSignature:
    """Return the interface of the cross attention, from the cache that a call gave."""
    rows, places, width = observed.answer.encoder_last_hidden_state.shape
    axis = encoder.outputs[0].shape[1]
    source = "source" if isinstance(axis, str) else axis
    outputs = []
    for index, layer in enumerate(filled_layers(observed.answer.past_key_values.cross_attention_cache.layers)):
        for name, tensor in (("key", layer.keys), ("value", layer.values)):
            if tensor.ndim != 4 or (tensor.shape[0], tensor.shape[2]) != (rows, places):
                raise NotADecoderError(f"its cross attention keeps {tuple(tensor.shape)}, no keys or values by head")
            shape = ("batch", int(tensor.shape[1]), source, int(tensor.shape[3]))
            outputs.append(TensorSpec(name=f"cross.{index}.{name}", dtype="float32", shape=shape))
    length = source if isinstance(source, int) else 7
    hidden = np.random.default_rng(21).standard_normal((_ROWS, length, width)).astype(np.float32)
    spec = TensorSpec(name=ENCODER_HIDDEN, dtype="float32", shape=("batch", source, int(width)))
    return PartSignature(inputs=(spec,), outputs=tuple(outputs), drawn={ENCODER_HIDDEN: hidden})


def _run(module: torch.nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        try:
            made = module.eval()(**{name: torch.as_tensor(value) for name, value in inputs.items()})
        except Exception as error:
            raise NotADecoderError(f"its parts do not run alone: {error}") from error
    return dict(made)


def encoder_mask(made: Any, inputs: Any) -> Any:
    """Return the mask of the encoder's places: the one that it made, or that of its input; None: all are read."""
    return made[ENCODER_MASK] if ENCODER_MASK in made else inputs.get("attention_mask")


def _reads_mask(observed: _WholeCall) -> bool:
    """Whether the decoder leaves out places of the encoder by a mask."""
    made, mask = observed.made, encoder_mask(observed.made, observed.before)
    if mask is None:
        return False
    if tuple(mask.shape) != tuple(made[HIDDEN].shape[:2]):
        raise NotADecoderError(f"its encoder makes {made[HIDDEN].shape[1]} places of {mask.shape[1]} in the mask")
    return True


def _own_inputs(
    ids: TensorSpec, positions: Literal["places", "counts"] | None
) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Return the decoder's inputs before those from the encoder, and the one after."""
    *first, last = own_inputs(ids, positions)
    return tuple(first), last


def _positions(observed: _WholeCall) -> Literal["places", "counts"] | None:
    """Return the positions that the decoder assumes where a call states none; None: it takes none."""
    if IDS_PLACES not in inspect.signature(as_encoder_decoder(observed.module).forward).parameters:
        return None
    mask = np.ones(observed.ids.shape, np.int64)
    mask[1, :3] = 0
    inputs = {**observed.inputs, observed.text[1]: mask}
    wanted = ask(observed.module, inputs).logits[mask == 1]
    own = IDS_PLACES if observed.text[0] == IDS else "position_ids"
    known: dict[Literal["places", "counts"], Any] = {
        "places": np.broadcast_to(np.arange(mask.shape[1]), mask.shape).copy(),
        "counts": np.clip(mask.cumsum(1) - 1, 0, None),
    }
    for name, positions in known.items():
        if alike(wanted, ask(observed.module, {**inputs, own: positions}).logits[mask == 1]):
            return name
    raise NotADecoderError("its decoder counts positions neither by place nor by mask")


def _check_parts(observed: _WholeCall, known: DecoderSignature) -> None:
    """Compare the parts, called one by one and the decoder in two pieces, with a call of the whole."""
    assert known.encoder is not None
    whole, made = observed.whole["logits"], observed.made
    names = [spec.name for spec in known.encoder.cross.outputs]
    cross = _run(CrossModule(fresh(observed.module), names), {ENCODER_HIDDEN: made[HIDDEN]})
    context = {**cross, ENCODER_MASK: encoder_mask(made, observed.before)}
    given = {spec.name: context[spec.name] for spec in known.inputs if spec.name in context}
    decoder = CrossDecoderModule(fresh(observed.module), known.state, names)
    past: Sequence[Any] = empty(known.state, _ROWS)
    with_places = any(spec.name == "position_ids" for spec in known.inputs)
    for start, end in ((0, _LENGTH // 2), (_LENGTH // 2, _LENGTH)):
        places = np.broadcast_to(np.arange(start, end), (_ROWS, end - start)).copy()
        own = {
            "input_ids": observed.ids[:, start:end],
            "attention_mask": np.ones((_ROWS, end), np.int64),
            "logits_to_keep": np.arange(end - start),
            **({"position_ids": places} if with_places else {}),
        }
        kept = dict(zip((spec.name for spec in known.state.past), past, strict=True))
        step = _run(decoder, {**own, **given, **kept})
        if not alike(whole[:, start:end], step["logits"]):
            raise NotADecoderError("its parts, called one by one with a cache, compute something else than the whole")
        past = [step[spec.name] for spec in known.state.present]


def as_generating(module: Any, signature: ModelSignature, decoder: DecoderSignature) -> ModelSignature:
    """Return the signature of a model that generates as its `generate` needs it: texts within tables of positions, and
    behind an encoder with a mask that `generate` passes and the model ignores, and without outputs that it leaves."""
    if decoder.encoder is not None:
        signature = signature.without(decoder.encoder.unread)
        if _ignores_mask(module, signature):
            signature = replace(signature, ignored=tuple(sorted({*signature.ignored, _MASK})))
    return _limited_to_tables(module, signature)


_MASK = "attention_mask"


def _ignores_mask(module: Any, signature: ModelSignature) -> bool:
    """Whether the model takes a mask of its recordings, as Whisper does, and computes the same with and without it."""
    if any(spec.name == _MASK for spec in signature.inputs):
        return False
    inputs = signature.draw(Case(name="without mask", lengths={"batch": 1}))
    text = text_inputs(inputs)
    shape = next(array.shape for name, array in inputs.items() if name not in text)
    wanted, found = ask(module, inputs).logits, list[Any]()
    for length in {shape[1], shape[-1]}:
        mask = np.ones((shape[0], length), np.int64)
        mask[:, length // 2 :] = 0
        try:
            found.append(ask(module, {**inputs, _MASK: mask}).logits)
        except Exception as error:  # noqa: BLE001 - of this shape, it is no input
            log.debug("no mask of %d places: %r", length, error)
    return bool(found) and all(alike(wanted, logits) for logits in found)


def _limited_to_tables(module: Any, signature: ModelSignature) -> ModelSignature:
    """Return the signature with texts no longer than the model's table of positions, if the model makes that longer
    when a text needs it (M2M-100, XGLM): a graph has the table that it was exported with."""
    positions = [number for number in numbers_of(module.config).positions if number <= LONGEST]
    positions = [number for number in positions if _has_table(module, number)]
    axes = [axis for axis in (_SEQUENCE, _TEXT) if axis in signature.axes and positions]
    for axis in axes:
        is_free = signature.ranges.get(axis, AxisRange()).greatest is None
        if is_free and _grows(module, signature, axis, positions[-1] + _BEYOND):
            why = f"the model makes its table of positions longer beyond {positions[0]}, and a graph cannot"
            signature = limited(signature, axis, positions[0], why)
    return signature


_SEQUENCE, _TEXT = "sequence", "decoder_sequence"
_BEYOND = 8  # tables have some rows for padding


def _has_table(module: Any, positions: int) -> bool:
    """Whether the model makes itself a table of as many rows, or some more for padding."""
    tables = (len(buffer) for buffer in module.buffers() if buffer.ndim == 2)
    return any(positions <= rows <= positions + _BEYOND for rows in tables)


def _grows(module: Any, signature: ModelSignature, axis: str, length: int) -> bool:
    """Whether a call at this length leaves a table of another size in the model."""
    trial = fresh(module)
    sizes = {name: buffer.shape for name, buffer in trial.named_buffers()}
    inputs = signature.draw(Case(name="beyond the table", lengths={"batch": 1, axis: length}, padding="none"))
    try:
        call(trial, inputs)
    except Exception:  # noqa: BLE001 - no longer texts, so no larger table
        return False
    return any(buffer.shape != sizes.get(name) for name, buffer in trial.named_buffers())
