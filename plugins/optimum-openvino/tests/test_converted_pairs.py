"""An encoder and a stateful decoder in the files of optimum-intel generate as the model that they were made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from transformers import EncoderDecoderCache

from optimum_core import accelerate
from optimum_core.errors import ArtifactError
from optimum_core.models.decoders.encoder_decoder_module import EncoderModule, _new_cache, encoded
from optimum_core.models.decoders.module import filled_cache
from optimum_core.models.eager.calls import FlatModule
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.pretrained import quiet
from optimum_core.testing.encoder_decoders import encoder_decoder
from optimum_core.types import LayerState, StateSpec
from optimum_openvino.runtime import without_telemetry
from optimum_openvino.stateful import make_stateful
from pair_texts import check_pair

_STATE = StateSpec(layers=(LayerState(heads=4, head_size=8),) * 2, crop=True, reorder=True, fork=True)


class _Decoder(torch.nn.Module):
    """A call that goes on from keys and values of its own attention, and makes those of the encoder's output anew."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, encoder_attention_mask: Any, encoder_hidden_states: Any, **past: Any) -> Any:
        own = filled_cache([past[spec.name] for spec in _STATE.past])
        answer = self.model(
            decoder_input_ids=input_ids, attention_mask=encoder_attention_mask, use_cache=True,
            encoder_outputs=encoded(encoder_hidden_states, None),
            past_key_values=EncoderDecoderCache(own, _new_cache().cross_attention_cache),
        )  # fmt: skip
        layers = answer.past_key_values.self_attention_cache.layers
        kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return {"logits": answer.logits, **dict(zip((spec.name for spec in _STATE.present), kept, strict=True))}


def _converted(module: torch.nn.Module, samples: dict[str, Any], outputs: list[str], axes: dict[str, list[int]]) -> Any:
    flat = FlatModule(module, list(samples), outputs).eval()
    with quiet(), without_telemetry(), export_ready(module), torch.no_grad():
        model = openvino.convert_model(flat, example_input=tuple(samples.values()))
    for ports, names in ((model.inputs, samples), (model.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    model.reshape({name: openvino.PartialShape(axes[name]) for name in samples})
    return model


def _keep_what_the_encoder_gave(model: Any) -> None:
    """Keep as variables what depends on the encoder's output alone, as optimum-intel does after `make_stateful`."""
    hidden = model.input("encoder_hidden_states").get_node()
    inputs = [*model.get_parameters(), *_of(model, "ReadValue"), *_of(model, "ShapeOf")]
    others = _dependents(model, [node for node in inputs if node.get_name() != hidden.get_name()])
    alone = _dependents(model, [hidden]) - others
    for node in model.get_ordered_ops():
        readers = [reader for port in node.outputs() for reader in port.get_target_inputs()]
        if node.get_name() in alone and any(reader.get_node().get_name() in others for reader in readers):
            name = f"variable.{node.get_name()}"
            read = ops.read_value(node.output(0), name)
            for reader in readers:
                reader.replace_source_output(read.output(0))
            model.add_sinks([ops.assign(read, name)])


def _of(model: Any, kind: str) -> list[Any]:
    return [operation for operation in model.get_ops() if operation.get_type_name() == kind]


def _dependents(model: Any, sources: Iterable[Any]) -> set[str]:
    found = {node.get_name() for node in sources}
    for node in model.get_ordered_ops():
        if found & {value.get_node().get_name() for value in node.input_values()}:
            found.add(node.get_name())
    return found


def _theirs(kind: str, folder: Path) -> Path:
    folder.mkdir()
    model, rng = encoder_decoder(kind), np.random.default_rng(3)
    ids, mask = torch.tensor(rng.integers(3, 99, (2, 7))), torch.ones((2, 7), dtype=torch.int64)
    axes = {"input_ids": [-1, -1], "attention_mask": [-1, -1]}
    encoder = _converted(EncoderModule(model), {"input_ids": ids, "attention_mask": mask}, ["last_hidden_state"], axes)
    openvino.save_model(encoder, folder / "openvino_encoder_model.xml", False)
    past = {spec.name: torch.tensor(rng.standard_normal((2, 4, 4, 8)), dtype=torch.float32) for spec in _STATE.past}
    hidden = torch.tensor(rng.standard_normal((2, 7, 32)), dtype=torch.float32)
    given = {"input_ids": ids[:, :3], "encoder_attention_mask": mask, "encoder_hidden_states": hidden}
    axes = {"input_ids": [-1, -1], "encoder_attention_mask": [-1, -1], "encoder_hidden_states": [-1, -1, 32]}
    axes |= {name: [-1, 4, -1, 8] for name in past}
    returned = ["logits", *(spec.name for spec in _STATE.present)]
    decoder = _converted(_Decoder(model), {**given, **past}, returned, axes)
    make_stateful(decoder, _STATE)
    _keep_what_the_encoder_gave(decoder)
    openvino.save_model(decoder, folder / "openvino_decoder_model.xml", False)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return folder


def test_a_decoder_without_a_cache_is_refused(tmp_path: Path) -> None:
    words = ops.parameter([-1, -1], dtype=np.int64, name="input_ids")
    hidden = ops.parameter([-1, -1, 8], dtype=np.float32, name="encoder_hidden_states")
    for name, given in (("encoder", words), ("decoder", hidden)):
        openvino.save_model(openvino.Model([ops.result(given)], [given], name), tmp_path / f"openvino_{name}_model.xml")
    with pytest.raises(ArtifactError, match=r"openvino_decoder_model\.xml keeps no cache"):
        accelerate(tmp_path, cache_dir=tmp_path / "cache")


def test_texts_are_those_of_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    fast = accelerate(_theirs("t5", tmp_path / "theirs"))
    assert set(fast.manifest.parts) == {"encoder", "cross", "decoder"}
    check_pair(fast, encoder_decoder("t5"), tmp_path / "out")
