"""ONNX as Optimum lays it out: `model.onnx` beside its configuration; of a decoder, with keys and values as inputs.

A plain graph is no foreign form: it is a source that can be compared (`sources.onnx_directory`). A decoder with its
cache is one: it opens as it is, with an input that selects the positions to give logits of.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_core.errors import ArtifactError
from optimum_core.generation.generator import generator_of
from optimum_core.models.backends.onnx_files.divisions import guard_divisions
from optimum_core.models.backends.onnx_files.surgery import drop_input, rename, rename_within, restrict
from optimum_core.models.sources.onnx_graph import copy_external, external_files, precision_of, read_graph
from optimum_core.packages import versions
from optimum_core.types import Artifact, ForeignFormat, LayerState, StateSpec, Step, TensorSpec
from optimum_core.types.state import DECODER, ENCODER

FORMAT, LAYOUT = "onnx", "optimum"
_NAME = "model.onnx"
_KEPT = "logits_to_keep"
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_WRITERS = re.compile(r"\w+(ForCausalLM|LMHeadModel)\b")
_OWN = ("input_ids", "attention_mask", "position_ids")
_ORIGINAL = "accelerate the checkpoint that it was made from"


def find(path: Path) -> tuple[Path, ...]:
    """Return the graph of a decoder with its cache, with the files of its weights; nothing for other graphs."""
    folder = path if path.is_dir() else path.parent
    if not (folder / "generation_config.json").is_file() and not _is_of_decoder(folder / "config.json"):
        return ()
    graphs = [path] if path.is_file() else [place / _NAME for place in (path, path / FORMAT)]
    graph = next((file for file in graphs if file.suffix == ".onnx" and file.is_file()), None)
    if graph is None:
        return ()
    proto = read_graph(graph)
    names = {value.name for value in proto.graph.input}
    return (graph, *external_files(proto, graph)) if any(map(_PAST.fullmatch, names)) else ()


def _is_of_decoder(config: Path) -> bool:
    """Whether a configuration names a class that writes text: its graph is read, which may be large."""
    return config.is_file() and bool(_WRITERS.search(config.read_text(encoding="utf-8", errors="replace")))


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Write the decoder into `output`, and return it as a generative artifact.

    Raises:
        ArtifactError: its inputs or outputs are not those of a decoder with keys and values.
    """
    import onnx

    who = f"model {str(files[0])!r}"
    proto = read_graph(files[0])
    given = {value.name: value.type.tensor_type for value in proto.graph.input}
    state = _state(given, {value.name for value in proto.graph.output}, who)
    vocabulary = select_logits(proto, who)
    folder = output / DECODER
    folder.mkdir()
    onnx.save(proto, folder / _NAME)
    guard_divisions(folder / _NAME)
    weights = copy_external(files[1:], files[0], folder)
    ids = _specs(given, vocabulary)
    step = Step(
        hook="export", backend=FORMAT, tool="onnx", version=versions(["onnx"])["onnx"],
        options={"given": files[0].name},
    )  # fmt: skip
    decoder = Artifact(
        format=FORMAT,
        path=folder,
        files=(_NAME, *weights),
        inputs=(*ids, TensorSpec(name=_KEPT, dtype="int64", shape=("kept",))),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "kept", vocabulary)),),
        precision=precision_of(proto),
        steps=(step,),
        state=state,
    )
    return generator_of(decoder, output)


def _state(given: Mapping[str, Any], returned: set[str], who: str) -> StateSpec:
    """Return the keys and values that the graph takes and gives.

    Raises:
        ArtifactError: it takes something else too, or its keys and values are not by head and position in 32 bits.
    """
    if unknown := sorted(name for name in given if name not in _OWN and not _PAST.fullmatch(name)):
        why = f"it takes {', '.join(unknown)} beside ids, mask, positions, keys and values"
        raise ArtifactError(who, why, _ORIGINAL)
    state = StateSpec(layers=layers_of(given, who), crop=True, reorder=True, fork=True)
    if lacking := {"logits", *(spec.name for spec in state.present)} - returned:
        raise ArtifactError(who, f"it does not give {', '.join(sorted(lacking))}", _ORIGINAL)
    return state


def layers_of(given: Mapping[str, Any], who: str) -> tuple[LayerState, ...]:
    """Return the keys and values that a graph takes, `past_key_values.<layer>.key` among its inputs.

    Raises:
        ArtifactError: they are not by head and position in 32 bits.
    """
    import onnx

    count = sum(bool(_PAST.fullmatch(name)) and name.endswith(".key") for name in given)
    layers = []
    for index in range(count):
        sizes = []
        for kind in ("key", "value"):
            spec = given.get(f"past_key_values.{index}.{kind}")
            axes = [] if spec is None else [axis.dim_value for axis in spec.shape.dim]
            floats = spec is not None and spec.elem_type == onnx.TensorProto.FLOAT
            if not floats or len(axes) != 4 or not axes[1] or not axes[3]:
                why = f"its keys and values of layer {index} are not of 32 bits by head, position and size"
                raise ArtifactError(who, why, _ORIGINAL)
            sizes.append((axes[1], axes[3]))
        (heads, size), (_, value_size) = sizes
        layers.append(LayerState(heads=heads, head_size=size, value_size=value_size if value_size != size else None))
    return tuple(layers)


def select_logits(proto: Any, who: str) -> int:
    """Give logits of the positions that a new input names; return the number of tokens."""
    from onnx import TensorProto, helper

    logits = next(value for value in proto.graph.output if value.name == "logits")
    axes = logits.type.tensor_type.shape.dim
    if logits.type.tensor_type.elem_type != TensorProto.FLOAT or len(axes) != 3 or not axes[2].dim_value:
        raise ArtifactError(who, "its logits are not of 32 bits by position and token", _ORIGINAL)
    rename_within(proto.graph, {"logits": "logits.all"})
    proto.graph.node.append(helper.make_node("Gather", ["logits.all", _KEPT], ["logits"], axis=1))
    proto.graph.input.append(helper.make_tensor_value_info(_KEPT, TensorProto.INT64, ["kept"]))
    axes[1].Clear()
    axes[1].dim_param = "kept"
    return int(axes[2].dim_value)


def _specs(given: Mapping[str, Any], vocabulary: int) -> tuple[TensorSpec, ...]:
    """Return the decoder's own inputs, in their usual order."""
    known = {
        "input_ids": TensorSpec(
            name="input_ids", dtype="int64", shape=("batch", "sequence"), least=0, greatest=vocabulary - 1
        ),
        "attention_mask": TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total"), default="ones"),
        "position_ids": TensorSpec(
            name="position_ids", dtype="int64", shape=("batch", "sequence"), default="places"
        ),
    }  # fmt: skip
    return tuple(known[name] for name in _OWN if name in given)


def _require_keys_and_values(decoder: Artifact) -> None:
    """Raise `ArtifactError` where a decoder keeps states of a fixed size, which the classes of Optimum do not pass."""
    layers = decoder.state.layers if decoder.state is not None else ()
    if any(layer.has_fixed_states for layer in layers):
        why = "its layers keep states of a fixed size, and that layout has names for keys and values alone"
        raise ArtifactError(f"layout {LAYOUT!r}", why, "save it without layout=, and open it by load()")


def release(artifact: Artifact, output: Path) -> None:
    """Write a model of ours as Optimum reads it: `model.onnx` with the files of its weights; an encoder and its decoder
    as three graphs; of a sentence encoder the transformer alone, since pooling is done behind the graph there.

    Raises:
        ArtifactError: the graph needs buffers of the caller's for its cache, or that layout has no place for a part or
            for states of a fixed size.
    """
    for part in artifact.parts.values():
        _require_keys_and_values(part)
    if ENCODER in artifact.parts:
        from optimum_core.models.backends.onnx_files.release import release_pair

        release_pair(artifact, output, _prepare)
        return
    decoder = artifact.parts.get(DECODER)
    model = artifact if decoder is None else decoder
    for name in model.files[1:]:
        shutil.copyfile(model.path / name, output / name)
    if decoder is None and not model.pools_by_modules:
        shutil.copyfile(model.main_file, output / _NAME)
        return
    import onnx

    if decoder is None:
        from optimum_core.artifact.embedding import TOKENS  # with msgspec, which a plugin does not import by itself

        proto = onnx.load(model.main_file, load_external_data=False)
        restrict(proto, [TOKENS])
        rename(proto.graph, {TOKENS: "last_hidden_state"})
        onnx.save(proto, output / _NAME)
        return

    proto = onnx.load(decoder.main_file, load_external_data=False)
    _prepare(proto, decoder)
    onnx.save(proto, output / _NAME)


def _prepare(proto: Any, decoder: Artifact) -> None:
    _require_copies(proto, decoder)
    _keep_all_logits(proto)


def _require_copies(proto: Any, decoder: Artifact) -> None:
    """Raise `ArtifactError` where new keys and values are written into the buffer of the past ones."""
    assert decoder.state is not None
    past, present = decoder.state.past[0].name, decoder.state.present[0].name
    axes = {
        value.name: value.type.tensor_type.shape.dim[2].dim_param
        for value in (*proto.graph.input, *proto.graph.output)
        if value.name in (past, present)
    }
    if axes[past] == axes[present]:
        levels = ", ".join(repr(step.options["level"]) for step in decoder.steps if "level" in step.options)
        why = f"its graph ({levels or 'as it is'}) writes keys and values into a buffer that the caller allocates"
        raise ArtifactError(f"layout {LAYOUT!r}", why, "accelerate with another level=, which copies them")


def _keep_all_logits(proto: Any) -> None:
    """Replace the input that selects positions by all of them."""
    import numpy as np
    from onnx import helper, numpy_helper

    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"{_KEPT}.{name}")
        for name, value in (("zero", 0), ("one", 1))
    )
    nodes = [
        helper.make_node("Shape", ["input_ids"], [f"{_KEPT}.shape"]),
        helper.make_node("Gather", [f"{_KEPT}.shape", f"{_KEPT}.one"], [f"{_KEPT}.length"], axis=0),
        helper.make_node("Range", [f"{_KEPT}.zero", f"{_KEPT}.length", f"{_KEPT}.one"], [f"{_KEPT}.all"]),
    ]
    rename_within(proto.graph, {_KEPT: f"{_KEPT}.all"})
    others = [*proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *others])
    drop_input(proto.graph, _KEPT)
    logits = next(value for value in proto.graph.output if value.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "sequence"


FORM = ForeignFormat(
    name="ONNX with keys and values", format=FORMAT, layout=LAYOUT, find=find, adopt=adopt, release=release
)
