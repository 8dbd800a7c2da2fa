"""Facts that determine the inputs of a model: its configuration, its forward's parameters, its processor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The facts that determine layouts: configuration, the forward's parameter names, the processor's input names.

    Attributes:
        required: the parameters of the forward that have no default.
        is_graph: whether it is an exported graph, which states the types of its inputs.
    """

    class_name: str
    config: Any
    parameters: tuple[str, ...]
    main_input: str
    required: tuple[str, ...] = ()
    processor: Any = None
    is_graph: bool = False

    def get(self, *names: str, part: str | None = None, default: Any = None) -> Any:
        """Return the first of these settings in the configuration (or its part: "text", "vision", "audio")."""
        for config in _parts(self.config, part):
            for name in names:
                value = getattr(config, name, None)
                if value is not None:
                    return value
        return default

    @property
    def processed(self) -> frozenset[str]:
        """The names of inputs that the processor produces; empty without one."""
        found: set[str] = set()
        for owner in (self.processor, *(getattr(self.processor, part, None) for part in _PROCESSOR_PARTS)):
            found.update(getattr(owner, "model_input_names", None) or ())
        return frozenset(found)


_PROCESSOR_PARTS = ("tokenizer", "image_processor", "feature_extractor", "video_processor")


def _parts(config: Any, part: str | None) -> Iterator[Any]:
    names = {
        "text": ("text_config", "decoder", "decoder_config", "encoder"),
        "vision": ("vision_config", "image_config", "encoder", "backbone_config"),
        "audio": ("audio_config", "encoder", "encoder_config", "speech_config"),
    }
    for name in names.get(part or "", ()):
        child = getattr(config, name, None)
        if child is not None and hasattr(child, "to_dict"):
            yield child
    yield config


#: Names of one and the same input of a SpeechEncoderDecoderModel, whose encoder's own name for it says what it is.
_ONE_UNDER_NAMES = frozenset({"inputs", "input_values", "input_features"})


def main_input_of(module: Any, default: str = "input_ids") -> str:
    """Return the name of a model's main input: the first where its class names several, and that of its encoder where
    "inputs" stands for it."""
    found: Any = getattr(module, "main_input_name", default)
    stated = found if isinstance(found, str) else str(found[0])
    own = getattr(getattr(module, "encoder", None), "main_input_name", stated)
    is_other = stated == "inputs" and own in _ONE_UNDER_NAMES and own in inspect.signature(module.forward).parameters
    return str(own) if is_other else stated


def facts_of(module: Any, processor: Any = None) -> Facts:
    """Read the facts off an eager model."""
    parameters = inspect.signature(module.forward).parameters
    named = {
        name: item for name, item in parameters.items() if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    }
    main = main_input_of(module)
    is_other = getattr(module, "main_input_name", main) == "inputs" != main
    same = _ONE_UNDER_NAMES - {main} if is_other else frozenset[str]()
    return Facts(
        class_name=type(module).__name__,
        config=getattr(module, "config", None),
        parameters=tuple(name for name in parameters if name not in same),
        required=tuple(name for name, item in named.items() if item.default is item.empty),
        main_input=main,
        processor=processor,
        is_graph=getattr(module, "is_graph", False),
    )
