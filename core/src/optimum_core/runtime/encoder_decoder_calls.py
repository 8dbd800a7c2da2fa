"""Calls and generation of an accelerated encoder-decoder that are not those of a lone decoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.generation.model_session import IDS, IDS_MASK
from optimum_core.generation.settings import Settings, start_ids
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answerer

Array = np.ndarray[Any, Any]
_CONTINUES = ("past_key_values", "encoder_outputs", "decoder_position_ids")


class EncoderDecoderCalls:
    """The members for encoder-decoders; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    config: Any
    _who: str
    _checker: InputChecker
    _answerer: Answerer
    _host: Any

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
        ids = kwargs.get(IDS)
        if ids is not None and not hasattr(ids, "detach"):
            raise InputError(self._who, "a cache or an encoder's output goes with torch tensors", "pass torch tensors")
        if ids is not None:
            self._checker.check({IDS: ids.numpy()})
        return self._host.forward(**kwargs)

    def _whole_call(self, kwargs: dict[str, Any]) -> Any:
        wanted = kwargs.pop("use_cache", None)
        arrays, torch_in = self._checker.bind((), kwargs)
        parts = self._parts
        assert parts is not None
        keeps = torch_in and (getattr(self.config, "use_cache", True) if wanted is None else bool(wanted))
        encoded = parts.encode(arrays)
        decoder = parts.read(encoded)
        if keeps:
            cache = self._host.cache()
            cache.go_after(decoder)
            generation = cache.begun(len(arrays[IDS]))
        else:
            generation = decoder.begin(len(arrays[IDS]))
        logits = generation.feed(arrays[IDS], arrays.get(IDS_MASK))
        outputs = {"logits": logits, "encoder_last_hidden_state": encoded.hidden}
        answer = self._answerer.answer(outputs, as_torch=torch_in)
        if not keeps:
            generation.close()
            return answer
        # In the order of the output class, which is that of the tuple.
        return type(answer)(
            logits=answer["logits"],
            past_key_values=cache,
            encoder_last_hidden_state=answer["encoder_last_hidden_state"],
        )

    def _started(self, arrays: dict[str, Any], settings: Settings, start: Any) -> tuple[Decoder, Array]:
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
                f"pass {IDS}=, or torch tensors",
            )
        ids = start_ids(settings, rows, self._who) if start is None else np.asarray(start, np.int64)
        ids = np.broadcast_to(ids[None], (rows, len(ids))).copy() if ids.ndim == 1 else ids
        bound, _ = self._checker.bind((), {**arrays, IDS: ids})
        return parts.after(bound), ids
