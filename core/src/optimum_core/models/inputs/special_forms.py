"""Forms of inputs beyond texts, pictures and sounds, which the configuration tells the sizes of: time series and their
features, steps of episodes, entities in a text, tasks and experts, pictures in patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from optimum_core.models.inputs.facts import Facts

InputKind = Literal[
    "ids", "mask", "types", "boxes", "image", "waveform", "features", "indices", "spans", "grids", "given"
]

#: Kinds of inputs of which the names do not tell the values.
ANY_VALUES: frozenset[InputKind] = frozenset({"given", "indices"})
#: Inputs of floats in the user's own units, of any size.
SERIES = frozenset({"past_values", "future_values"})
#: Inputs that record the steps of a reinforcement-learning episode.
EPISODE = ("states", "actions", "rewards", "returns_to_go", "timesteps")
#: Inputs of entities beside a text: drawn where the model does not run on the text alone.
ENTITIES = (
    "entity_ids",
    "entity_attention_mask",
    "entity_position_ids",
    "entity_start_positions",
    "entity_end_positions",
)
#: Other inputs that models need where their configuration tells the sizes of these.
SIZED = (
    "past_time_features",
    "past_observed_mask",
    "static_categorical_features",
    "static_real_features",
    "future_values",
    "future_time_features",
    "task_inputs",
    "dataset_index",
    "pixel_attention_mask",
    "spatial_shapes",
)


class Form(NamedTuple):
    """Kind, axes and element type of an input; `before` names axes of a fixed length along which rows have padding."""

    kind: InputKind
    axes: tuple[int | str, ...]
    dtype: str = "float32"
    before: tuple[int | str, ...] = ()


def special_forms(name: str, facts: Facts) -> list[Form]:
    """Return the possible forms of an input of this name; none for an unknown name, or without its sizes."""
    if name in EPISODE:
        return list(_episode(name, facts))
    if name in ENTITIES:
        return list(_entities(name, facts))
    if facts.get("lags_sequence") is not None:
        return list(_lagged_series(name, facts))
    if name == "past_values" and (context := facts.get("context_length")):
        channels = facts.get("num_input_channels")
        return [Form("features", ("batch", int(context), *([int(channels)] if channels else [])))]
    if name == "token_type_ids":  # of cells in a table: segment, column, row and more
        return [Form("indices", ("batch", "sequence", len(facts.get("type_vocab_sizes"))), "int64")]
    if name == "task_inputs" and (
        length := facts.get("task_seq_len")
    ):  # ids of a text, which the model takes as floats
        return [Form("indices", ("batch", int(length)), "int64")]
    if name == "dataset_index" and facts.get("num_experts", part="vision", default=1) > 1:
        return [Form("indices", ("batch",), "int64")]
    return list(_patches(name, facts))


def in_patches(facts: Facts) -> bool:
    """Whether the model takes pictures as rows of patches, with the number of these along height and width."""
    return "spatial_shapes" in facts.parameters


def special_lengths(facts: Facts) -> dict[str, int]:
    """Return the lengths of named axes that only such inputs have."""
    lengths = {"entities": 3, "patches": int(facts.get("num_patches", part="vision", default=64))}
    return {**lengths, **({"steps": _past(facts)} if facts.get("lags_sequence") is not None else {})}


def _past(facts: Facts) -> int:
    """Return the length of series that are read at several lags at once: that of the context and the longest lag."""
    return int(facts.get("context_length", "prediction_length")) + max(map(int, facts.get("lags_sequence")))


def special_bounds(facts: Facts) -> dict[str, int]:
    """Return by input the number below which its values are drawn."""
    cardinality = facts.get("cardinality", default=None) or [2]
    return {
        "timesteps": int(facts.get("max_ep_len", "vocab_size", default=64)),
        "entity_ids": int(facts.get("entity_vocab_size", default=2)),
        "static_categorical_features": max(1, min(map(int, cardinality))),
        "task_inputs": int(facts.get("text_encoder_vocab_size", default=64)),
        "dataset_index": int(facts.get("num_experts", part="vision", default=1)),
    }


def _episode(name: str, facts: Facts) -> Iterator[Form]:
    if facts.get("state_dim"):
        width = int(facts.get({"states": "state_dim", "actions": "act_dim"}.get(name, ""), default=1))
        is_time = name == "timesteps"
        yield Form("ids", ("batch", "sequence"), "int64") if is_time else Form("features", ("batch", "sequence", width))


def _entities(name: str, facts: Facts) -> Iterator[Form]:
    if not facts.get("entity_vocab_size"):
        return
    if name == "entity_position_ids":
        yield Form("spans", ("batch", "entities", int(facts.get("max_mention_length", default=30))), "int64")
    else:
        kind: dict[str, InputKind] = {"entity_ids": "indices", "entity_attention_mask": "mask"}
        yield Form(kind.get(name, "spans"), ("batch", "entities"), "int64")


def _lagged_series(name: str, facts: Facts) -> Iterator[Form]:
    past, future = _past(facts), int(facts.get("prediction_length"))
    width = int(facts.get("input_size", default=1))
    channels = (width,) if width > 1 else ()
    times = int(facts.get("num_time_features", default=0))
    counts = {kind: int(facts.get(f"num_static_{kind}_features", default=0)) for kind in ("categorical", "real")}
    if name == "past_values":
        yield Form("features", ("batch", past, *channels))
    elif name == "past_observed_mask":
        yield Form("mask", ("batch", past, *channels), "float32", ("batch", "steps", *channels))
    elif name == "future_values":
        yield Form("features", ("batch", future, *channels))
    elif name in ("past_time_features", "future_time_features"):
        yield Form("features", ("batch", past if name.startswith("past") else future, times))
    elif name == "static_categorical_features" and counts["categorical"]:
        yield Form("indices", ("batch", counts["categorical"]), "int64")
    elif name == "static_real_features" and counts["real"]:
        yield Form("features", ("batch", counts["real"]))


def _patches(name: str, facts: Facts) -> Iterator[Form]:
    patch = facts.get("patch_size", part="vision")
    if not in_patches(facts) or not isinstance(patch, int):
        return
    if name == "pixel_values":
        channels = int(facts.get("num_channels", part="vision", default=3))
        yield Form("features", ("batch", "patches", channels * patch**2))
    elif name == "pixel_attention_mask":
        yield Form("mask", ("batch", "patches"), "int64")
    elif name == "spatial_shapes":
        yield Form("grids", ("batch", 2), "int64")
