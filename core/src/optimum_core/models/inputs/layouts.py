"""Layouts: the inputs of a forward and the meaning of each axis, by the inputs' names, never by architecture.

The names are transformers' vocabulary (`input_ids`, `pixel_values`, …); lengths come from the configuration and the
processor. If a name allows several layouts, they are alternatives, and a run of the eager model decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from optimum_core.artifact.embedding import POOLING_MASK
from optimum_core.models.inputs.facts import Facts
from optimum_core.models.inputs.special_forms import (
    ENTITIES,
    EPISODE,
    SIZED,
    InputKind,
    in_patches,
    special_bounds,
    special_forms,
    special_lengths,
)

#: The edges of a picture.
PICTURE = ("height", "width")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLayout:
    """One input.

    Attributes:
        kind: the kind of its values.
        axes: for each axis a fixed length or a name.
        dtype: the element type.
        before: the axes as they were named before any was fixed: rows have padding all the same.
    """

    name: str
    kind: InputKind
    axes: tuple[int | str, ...]
    dtype: str = "float32"
    before: tuple[int | str, ...] = ()

    @property
    def meaning(self) -> tuple[int | str, ...]:
        """For each axis what it stands for, also where it is fixed."""
        return self.before or self.axes

    @property
    def padded(self) -> tuple[str, ...]:
        """The axes along which rows have padding: both edges of a picture, else the last one with a name."""
        named = tuple(axis for axis in self.meaning if isinstance(axis, str))
        return named[-2:] if named[-2:] == PICTURE else named[-1:]

    def renamed(self, names: Mapping[int | str, int | str]) -> InputLayout:
        """Return the same input with other names of axes."""
        axes, before = (tuple(names.get(part, part) for part in parts) for parts in (self.axes, self.before))
        return replace(self, axes=axes, before=before)

    def pinned(self, axis: str, length: int) -> InputLayout:
        """Return the same input with one axis fixed."""
        return replace(self.renamed({axis: length}), before=self.meaning) if axis in self.axes else self


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """All inputs of one call.

    Attributes:
        inputs: in the order of the forward's signature.
        lengths: for every named axis the length to trace with; all differ, all above 1.
        limits: for a named axis the greatest length that the configuration allows.
        vocabulary: by input, the bound below which ids are drawn.
        special: ids with a meaning to the model, which are not drawn.
        placeholders: ids that stand for pictures, sounds, …: as many of them as a call has features.
        stated: for every named axis the length by configuration or sample, which a fixed axis gets.
        steady: inputs that keep the user's own values in every call, since the eager model refuses others.
        columns: inputs with values of their own at each place along the last axis, between those of the samples there.
        ordered: the rows of samples stay in their order.
        places: inputs of whole numbers that become less where an axis is shorter than in the user's call: places in it.
    """

    inputs: tuple[InputLayout, ...]
    lengths: Mapping[str, int]
    limits: Mapping[str, int] = field(default_factory=dict)
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    special: Mapping[str, int] = field(default_factory=dict)
    placeholders: frozenset[int] = frozenset()
    stated: Mapping[str, int] = field(default_factory=dict)
    steady: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    ordered: bool = False
    places: frozenset[str] = frozenset()

    @property
    def axes(self) -> tuple[str, ...]:
        """Named axes, each once, in order of appearance."""
        return tuple(dict.fromkeys(axis for item in self.inputs for axis in item.axes if isinstance(axis, str)))

    def longest(self, axis: str) -> int:
        """Return the greatest length to draw: two below the limit, as some models count positions from the padding."""
        return max(self.limits.get(axis, 4096) - 2, 2)

    def shape(self, item: InputLayout, lengths: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of one input when its named axes have these lengths."""
        return tuple(axis if isinstance(axis, int) else lengths.get(axis, self.lengths[axis]) for axis in item.axes)

    def without(self, name: str) -> Layout:
        """Return the same call with one input left out."""
        return replace(self, inputs=tuple(item for item in self.inputs if item.name != name))

    def pinned(self, axis: str, length: int) -> Layout:
        """Return the same call with one axis fixed."""
        inputs = tuple(item.pinned(axis, length) for item in self.inputs)
        return replace(self, inputs=inputs, lengths={**self.lengths, axis: length})

    def tied(self, axes: tuple[str, ...]) -> Layout:
        """Return the same call with these axes under the first one's name, since they have one length."""
        names: dict[int | str, int | str] = dict.fromkeys(axes, axes[0])
        return replace(self, inputs=tuple(item.renamed(names) for item in self.inputs))


def alternatives(facts: Facts) -> Iterator[Layout]:
    """Yield layouts that may fit, the likeliest first."""
    names = list(_names(facts))
    decoder = {name for name in names if name.startswith("decoder_")}
    optional = set(names).difference(facts.required, (facts.main_input, *_NEEDED, *EPISODE))
    text_alone = [decoder, optional, optional | decoder]
    entities = optional.intersection(ENTITIES)
    leave_out = [entities, *(left_out | entities for left_out in text_alone), set[str](), *text_alone]
    for left_out in dict.fromkeys(map(frozenset, leave_out)):
        for inputs in product(*(layouts_of(name, facts) for name in names if name not in left_out)):
            yield from _complete(facts, _without_masks_of_nothing(inputs))
    likeliest = [known[0] for known in (layouts_of(name, facts) for name in names) if known]
    for layout in _complete(facts, tuple(likeliest)):
        yield layout.pinned("batch", 1)  # a classifier on a decoder without a padding token takes one text at a time


def _without_masks_of_nothing(inputs: tuple[InputLayout, ...]) -> tuple[InputLayout, ...]:
    """Return the inputs without masks over frames that no other input has: those of a fixed number are not masked."""
    framed = any("frames" in item.axes for item in inputs if item.kind != "mask")
    return tuple(item for item in inputs if framed or "frames" not in item.axes)


#: Tokens of texts of one length, at most.
_FIXED_TEXT = 128
_NEEDED = ("input_ids", "pixel_values", "decoder_input_ids", "input_features", "input_values", "bbox")


def _names(facts: Facts) -> Iterator[str]:
    """Yield the names of inputs to feed, in the forward's own order."""
    wanted = _wanted(facts)
    for name in facts.parameters:
        if name == facts.main_input or (name in wanted and layouts_of(name, facts)):
            yield name


def _wanted(facts: Facts) -> set[str]:
    wanted = {*_NEEDED, *EPISODE, *ENTITIES, *SIZED, "attention_mask", "pixel_mask", POOLING_MASK}
    if not facts.get("is_encoder_decoder", default=False):
        wanted.discard("decoder_input_ids")
    elif "decoder_input_ids" in facts.parameters:
        wanted.add("decoder_attention_mask")
    if facts.main_input == "inputs":  # the main input under another name
        wanted -= {"input_ids", "pixel_values"}
    if facts.main_input in ("input_values", "input_features") and "input_ids" in facts.parameters:
        text_too = hasattr(facts.config, "text_config")
        wanted -= set() if text_too else {"input_ids"}
    types = facts.get("type_vocab_size", part="text", default=0) >= 2 or facts.get("type_vocab_sizes") is not None
    if "token_type_ids" in facts.processed or (not facts.processed and types):
        wanted.add("token_type_ids")
    if facts.processed & {"input_ids", "pixel_values", "input_features", "input_values"}:
        wanted |= facts.processed.intersection(facts.parameters).difference(_NEEDED)
        beside = {"decoder_input_ids", "decoder_attention_mask", POOLING_MASK, facts.main_input, *ENTITIES, *SIZED}
        wanted &= facts.processed | beside
    return wanted


def layouts_of(name: str, facts: Facts) -> list[InputLayout]:
    """Return possible layouts of an input of this name, the likeliest first; none for an unknown name."""
    if name in ("input_ids", "decoder_input_ids"):
        return _text(name, "ids", facts)
    if name == "token_type_ids" and facts.get("type_vocab_sizes") is None:
        return _text(name, "types", facts)
    if name in ("decoder_attention_mask", POOLING_MASK):
        return _text(name, "mask", facts)
    if name == "attention_mask":
        return _mask(facts)
    if name == "bbox":
        return _boxes(name, facts)
    if (name == "pixel_values" and not in_patches(facts)) or name == facts.main_input == "pixel_values_videos":
        return _pixels(name, facts)
    if name == "pixel_mask":
        return [InputLayout(name=name, kind="mask", axes=("batch", "height", "width"), dtype="int64")]
    if name in ("input_values", "input_features"):
        return _sound(name, facts)
    if name == "inputs" and facts.main_input == name:  # bytes of a text, or a picture
        return [*_text(name, "ids", facts), *_pixels(name, facts)]
    return [InputLayout(name=name, **form._asdict()) for form in special_forms(name, facts)]


def _text(name: str, kind: InputKind, facts: Facts) -> list[InputLayout]:
    axis = "decoder_sequence" if name.startswith("decoder_") else "sequence"
    axes: tuple[int | str, ...] = ("batch", axis)
    if "MultipleChoice" in facts.class_name:
        axes = ("batch", "choices", axis)
    return [InputLayout(name=name, kind=kind, axes=axes, dtype="int64")]


def _boxes(name: str, facts: Facts) -> list[InputLayout]:
    """Return layouts of boxes in thousandths of a page; or in floats, by two corners, or by as many numbers as the
    configuration says."""
    if floats := facts.get("dim_bbox"):
        corners = InputLayout(name=name, kind="features", axes=("batch", "sequence", 4))
        return [corners, replace(corners, axes=("batch", "sequence", int(floats)))]
    return [InputLayout(name=name, kind="boxes", axes=("batch", "sequence", 4), dtype="int64")]


def _mask(facts: Facts) -> list[InputLayout]:
    if facts.main_input == "input_values":
        return [InputLayout(name="attention_mask", kind="mask", axes=("batch", "samples"), dtype="int64")]
    if facts.main_input == "input_features" and "input_ids" not in facts.parameters:
        axes = (axis for item in _sound("input_features", facts) for axis in item.axes[1:])
        along = next(axis for axis in axes if isinstance(axis, str))
        return [InputLayout(name="attention_mask", kind="mask", axes=("batch", along), dtype="int64")]
    of_words = "input_ids" in facts.parameters or facts.main_input in ("inputs", "states")
    return _text("attention_mask", "mask", facts) if of_words else []


def _pixels(name: str, facts: Facts) -> list[InputLayout]:
    channels = int(facts.get("num_channels", "in_channels", "in_chans", part="vision", default=3))
    picture: tuple[int | str, ...] = (channels, "height", "width")
    frames = facts.get("num_frames", "frames_per_clip", part="vision")
    plain = InputLayout(name=name, kind="image", axes=("batch", *picture))
    if frames:
        return [InputLayout(name=name, kind="image", axes=("batch", int(frames), *picture)), plain]
    return [plain]


def _sound(name: str, facts: Facts) -> list[InputLayout]:
    bins = facts.get(
        "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "feature_size", part="audio"
    )
    longest = facts.get("max_source_positions", part="audio")
    whole = facts.get("max_length", part="audio")
    waveform = InputLayout(name=name, kind="waveform", axes=("batch", "samples"))
    if not bins:  # codecs take channels, which some of their configurations do not state: one
        channels = int(facts.get("audio_channels", part="audio", default=1))
        return [waveform, replace(waveform, axes=("batch", channels, "samples"))]
    by_time = InputLayout(name=name, kind="features", axes=("batch", "frames", int(bins)))
    by_bin = InputLayout(name=name, kind="features", axes=("batch", int(bins), "frames"))
    layouts = [by_bin, by_time]
    if longest and name == "input_features":  # two frames a position after the striding convolution of Whisper's kind
        layouts.insert(0, replace(by_bin, axes=("batch", int(bins), 2 * int(longest))))
    if whole and name == "input_values":
        layouts.insert(0, replace(by_time, axes=("batch", int(whole), int(bins))))
    if name == "input_values":
        return [*layouts, waveform]
    return [*layouts, replace(by_time, axes=("batch", 1, "frames", int(bins)))]  # spectrograms as pictures


def _complete(facts: Facts, inputs: tuple[InputLayout, ...]) -> Iterator[Layout]:
    """Yield layouts with lengths and limits; for texts with pictures or sounds, first with a separate batch axis for
    each."""
    lengths = _lengths(facts)
    stated = {**lengths, "sequence": _text_lengths(facts)[1]}
    layout = Layout(inputs=inputs, lengths=lengths, stated=stated, **words(facts))
    apart = with_media_apart(inputs)
    if apart != inputs:
        yield replace(layout, inputs=apart)
    yield layout


def with_media_apart(inputs: tuple[InputLayout, ...]) -> tuple[InputLayout, ...]:
    """Return the same inputs, with a separate batch axis for pictures or sounds beside texts."""
    if not any(item.name == "input_ids" for item in inputs):
        return inputs
    return tuple(
        replace(item, axes=("media_batch", *item.axes[1:]))
        if (item.kind in ("image", "waveform", "features", "grids") or "patches" in item.axes)
        and item.axes[:1] == ("batch",)
        else item
        for item in inputs
    )


def _lengths(facts: Facts) -> dict[str, int]:
    height, width = _picture_size(facts)
    text, _ = _text_lengths(facts)
    return {
        "batch": 2,
        "media_batch": 4,
        "sequence": text,
        "decoder_sequence": max(3, text - 4),
        "choices": 3,
        "height": height,
        "width": width,
        "samples": 8000,
        "frames": 96,
        **special_lengths(facts),
    }


def _text_lengths(facts: Facts) -> tuple[int, int]:
    """Return the length of texts to trace with, and that of texts of one length: layers that cut them into equal pieces
    take multiples of these alone, or one length."""
    positions = _positions(facts)
    usual = max(4, min(13, (positions - 2) // 2))
    segmented, piece = facts.get("segment_means_seq_len"), facts.get("chunk_size_feed_forward", default=0)
    if segmented and segmented != facts.get("num_landmarks"):
        return int(segmented), int(segmented)
    if piece > 1:
        return -(-usual // piece) * piece, max(min(_FIXED_TEXT, positions) // piece, 1) * piece
    return usual, usual


def words(facts: Facts) -> dict[str, Any]:
    """Return a layout's facts about ids: the numbers of positions and ids, and the ids with a meaning."""
    positions = _positions(facts)
    vocabulary = int(facts.get("vocab_size", part="text", default=64))
    decoder = int(facts.get("decoder_vocab_size", "vocab_size", part="text", default=vocabulary))
    types = max(1, int(facts.get("type_vocab_size", part="text", default=2)))
    return {
        "limits": {"sequence": positions, "decoder_sequence": positions},
        "vocabulary": {
            "input_ids": vocabulary,
            "inputs": vocabulary,
            "decoder_input_ids": decoder,
            "token_type_ids": min(facts.get("type_vocab_sizes", default=[types])),
            "bbox": min(1000, int(facts.get("max_2d_position_embeddings", part="text", default=1000))),
            **special_bounds(facts),
        },
        "special": _special_ids(facts, vocabulary),
        "placeholders": frozenset(_placeholders(facts.config)),
    }


def _positions(facts: Facts) -> int:
    """Return the number of tokens that the position embeddings have room for."""
    found = facts.get("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", part="text")
    return min(found, 4096) if isinstance(found, int) and found > 4 else 512


def _picture_size(facts: Facts) -> tuple[int, int]:
    size = facts.get(
        "image_size", "img_size", "input_size", "crop_size", "anchor_image_size", "max_img_size", part="vision"
    )
    if size is None:
        size = _size_of_timm(facts.get("pretrained_cfg", part="vision")) or _processor_size(facts.processor)
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge", size.get("longest_edge", 224))
        size = (size.get("height", edge), size.get("width", edge))
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return (int(size), int(size)) if size else (224, 224)


def _size_of_timm(described: Any) -> tuple[int, int] | None:
    """Return height and width, of a description that models of timm have: channels, height and width."""
    size = described.get("input_size") if isinstance(described, Mapping) else None
    return (int(size[1]), int(size[2])) if isinstance(size, list | tuple) and len(size) == 3 else None


def _processor_size(processor: Any) -> Any:
    owner = getattr(processor, "image_processor", processor)
    cropped = getattr(owner, "crop_size", None) if getattr(owner, "do_center_crop", False) else None
    size: Any = cropped or getattr(owner, "size", None)
    # transformers' own class for sizes reads like a mapping but is none; lengths that it leaves open are None.
    return {name: length for name, length in dict(size).items() if length} if hasattr(size, "get") else size


def _special_ids(facts: Facts, vocabulary: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "mask_token_id", "image_token_id"):
        value = facts.get(name, part="text")
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and 0 <= value < vocabulary:
            found[name] = value
    return found


_ORDINARY_SPECIALS = ("pad_", "bos_", "eos_", "sep_", "cls_", "mask_", "unk_", "decoder_start_", "forced_")


def _placeholders(config: Any) -> Iterator[int]:
    """Yield every id that the configuration gives a meaning beyond those of plain text ("image_token_id")."""
    for name, value in vars(config).items() if config is not None else ():
        if hasattr(value, "to_dict"):
            yield from _placeholders(value)
        elif name.endswith(("_token_id", "_token_index")) and not name.startswith(_ORDINARY_SPECIALS):
            yield from (value,) if isinstance(value, int) else ()
