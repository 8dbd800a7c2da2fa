"""The abilities of an opened model: the protocols ask for them at every request, and they do not change."""

from __future__ import annotations

from functools import cached_property

from optimum_core import AcceleratedModel
from optimum_core.types.tensors import is_batch
from optimum_serve.tokenizing import frame_of

SENTENCE, LOGITS = "sentence_embedding", "logits"
_IDS, PIXELS = "input_ids", "pixel_values"
#: The task of masked language models.
_MASKED = "fill-mask"
#: The part of a model that puts pictures or sounds between the tokens of a text.
_MERGE = "merge"
#: Names of the trained length in configurations.
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")
SOUNDS = frozenset({"input_values", "input_features"})


class Abilities:
    """The abilities of a model under its name."""

    @property
    def model(self) -> AcceleratedModel:
        """The accelerated model."""
        raise NotImplementedError

    @property
    def writes(self) -> bool:
        """Whether it writes text."""
        raise NotImplementedError

    @cached_property
    def outputs(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of its outputs by name."""
        return {spec.name: spec.shape for spec in self.model.manifest.outputs}

    @cached_property
    def batched(self) -> frozenset[str]:
        """The names of its inputs that have several numbers for each row of a call."""
        return frozenset(
            spec.name for spec in self.model.manifest.inputs if len(spec.shape) > 1 and is_batch(spec.shape[0])
        )

    @cached_property
    def takes_text(self) -> bool:
        """Whether its inputs are tokens."""
        return any(spec.name == _IDS for spec in self.model.manifest.inputs)

    @cached_property
    def embeds(self) -> bool:
        """Whether it gives a vector for a text."""
        return self.takes_text and self.model.embeds

    @cached_property
    def classifies(self) -> bool:
        """Whether it gives scores for a text, a picture or a sound as a whole."""
        return not self.writes and len(self.outputs.get(LOGITS, ())) == 2

    @cached_property
    def reranks(self) -> bool:
        """Whether it gives one score for a pair of texts."""
        return self.takes_text and self.classifies and self.outputs[LOGITS][-1] == 1

    @cached_property
    def vocabulary(self) -> int:
        """The number of words that a masked language model weighs for each token of a text; 0: it is none."""
        shape = self.outputs.get(LOGITS, ())
        fills = self.takes_text and not self.writes and self.model.manifest.task == _MASKED
        return shape[-1] if fills and len(shape) == 3 and isinstance(shape[-1], int) else 0

    @cached_property
    def completes(self) -> bool:
        """Whether it writes text behind a text."""
        is_text = self.model.manifest.model.main_input == _IDS and _MERGE not in self.model.manifest.parts
        return self.writes and is_text

    @cached_property
    def sees(self) -> bool:
        """Whether it answers chats with pictures."""
        return self.writes and self.model.takes_pictures_in_chats

    @cached_property
    def chats(self) -> bool:
        """Whether it answers chats: its tokenizer or processor has a template for them."""
        return self.sees or (self.completes and self.model.has_chat_template)

    @cached_property
    def writes_behind(self) -> bool:
        """Whether what it reads takes positions of what it writes: of a decoder that is alone, with no encoder."""
        return "encoder" not in self.model.manifest.parts

    @cached_property
    def captions(self) -> bool:
        """Whether it writes what is on a picture."""
        return self.writes and self.model.manifest.model.main_input == PIXELS

    @cached_property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and behind every text, as its tokenizer puts them."""
        return frame_of(self.model)

    @cached_property
    def dimensions(self) -> int | None:
        """The dimensions of its vectors that are returned where a request states none; None: all."""
        return self.model.get_embedding_dimension()

    @cached_property
    def default_prompt(self) -> str:
        """The text that the model puts before every text where no prompt is named."""
        return self.model.prompts.get(self.model.default_prompt_name or "", "")

    @cached_property
    def medium(self) -> str:
        """The kind of its inputs: "text", "picture", "sound", or "tensor"."""
        names = {spec.name for spec in self.model.manifest.inputs}
        if self.takes_text and not self.captions:
            return "text"
        return "picture" if PIXELS in names else "sound" if names & SOUNDS else "tensor"

    @property
    def kind(self) -> str:
        """Its use in a word, for clients and the page."""
        kinds = {
            "embedding": self.embeds, "captions": self.captions, "generation": self.writes, "reranker": self.reranks,
        }  # fmt: skip
        found = next((name for name, holds in kinds.items() if holds), None)
        return found or ("classifier" if self.classifies else "tensors")

    @cached_property
    def longest(self) -> int | None:
        """The greatest number of tokens of a text; None: unknown."""
        axis = self.model.manifest.axes.get("sequence")
        found = [axis.greatest if axis is not None else None]
        if self.writes:  # one with rotary positions goes on beyond what it was trained for
            found += [self.model.config_value(name) for name in _CONTEXTS]
        if self.takes_text and not self.writes:
            found.append(self.model.max_seq_length)
        return min((number for number in found if number), default=None)

    @cached_property
    def labels(self) -> dict[int, str]:
        """Names of its classes."""
        stated = self.model.config_value("id2label") or {}
        count = self.outputs[LOGITS][-1]
        numbers = range(count if isinstance(count, int) else len(stated))
        return {number: str(stated.get(number, f"LABEL_{number}")) for number in numbers}
