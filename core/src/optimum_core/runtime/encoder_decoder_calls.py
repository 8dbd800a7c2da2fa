"""Calls and generation of an accelerated encoder-decoder that are not those of a lone decoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.generation.model_session import text_inputs
from optimum_core.generation.settings import Settings, start_ids
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answerer
from optimum_core.types.arrays import NDArray

_CONTINUES = ("past_key_values", "encoder_outputs", "decoder_position_ids")


class EncoderDecoderCalls:
    """The members for encoder-decoders; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    config: Any
    _who: str
    _checker: InputChecker
    _answerer: Answerer
    _host: Any
    _session: Any

    @property
    def _text_inputs(self) -> tuple[str, str]:
        """The inputs of the original's call that are its decoder's ids and their mask."""
        return text_inputs([spec.name for spec in self.manifest.inputs])

    @property
    def _parts(self) -> EncoderDecoder | None:
        raise NotImplementedError

    def _call_parts(self, kwargs: dict[str, Any]) -> Any:
        """Answer as the original's forward does, with a cache or an encoder's output handed in, and a cache out."""
        returned = kwargs.get("return_dict")
        as_tuple = self.manifest.model.returns_tuple if returned is None else not returned
        if any(kwargs.get(name) is not None for name in _CONTINUES):
            answer = self._continued(kwargs)
        else:
            answer = self._whole_call(kwargs)
        return tuple(answer.values()) if as_tuple else answer

    def _continued(self, kwargs: dict[str, Any]) -> Any:
        ids = kwargs.get(self._text_inputs[0])
        if ids is not None and not hasattr(ids, "detach"):
            raise InputError(self._who, "a cache or an encoder's output goes with torch tensors", "pass torch tensors")
        if ids is not None:
            self._checker.check({self._text_inputs[0]: ids.numpy()})
        return self._host.forward(**kwargs)

    def _whole_call(self, kwargs: dict[str, Any]) -> Any:
        wanted = kwargs.pop("use_cache", None)
        arrays, torch_in = self._checker.bind((), kwargs)
        parts, (ids, ids_mask) = self._parts, self._text_inputs
        assert parts is not None
        keeps = torch_in and (getattr(self.config, "use_cache", True) if wanted is None else bool(wanted))
        keeps = keeps and self._host.calls_return_cache
        encoded = parts.encode(arrays)
        decoder = parts.read(encoded)
        if keeps:
            cache = self._host.cache()
            cache.go_after(decoder)
            generation = cache.begun(len(arrays[ids]))
        else:
            generation = decoder.begin(len(arrays[ids]))
        logits = generation.feed(arrays[ids], arrays.get(ids_mask))
        answer = self._answerer.answer(self._session.outputs_of(logits, encoded.hidden), as_torch=torch_in)
        if not keeps:
            generation.close()
            return answer
        # In the order of the output class, which is that of the tuple.
        first, *others = answer.items()
        return type(answer)(**dict([first, ("past_key_values", cache), *others]))

    def _started(self, arrays: dict[str, Any], settings: Settings, start: Any) -> tuple[Decoder, NDArray]:
        """Return the decoder behind inputs of the encoder, and its first tokens.

        Args:
            arrays: the inputs of the encoder, without torch.
            start: the decoder's first tokens; None: the model's own.
        """
        parts = self._parts
        assert parts is not None
        rows = len(next(iter(arrays.values())))
        if start is None and settings.begins_with_task:
            raise InputError(
                self._who,
                "without torch, its first tokens (language, task, timestamps) are not made",
                f"pass {self._text_inputs[0]}=, or torch tensors",
            )
        ids = start_ids(settings, rows, self._who) if start is None else np.asarray(start)
        ids = np.broadcast_to(ids[None], (rows, len(ids))).copy() if ids.ndim == 1 else ids
        bound, _ = self._checker.bind((), {**arrays, self._text_inputs[0]: ids})
        return parts.after(bound), ids.astype(np.int64)
