"""An encoder and a decoder in the files of Optimum generate as the model that they were exported from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers import EncoderDecoderCache

from optimum_core import accelerate
from optimum_core.errors import InputError, SourceError
from optimum_core.models.decoders.encoder_decoder_module import EncoderModule, encoded
from optimum_core.models.decoders.module import filled_cache
from optimum_core.models.exporting import OnnxRequest, writer
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.pretrained import quiet
from optimum_core.testing.encoder_decoders import encoder_decoder
from optimum_core.types import TensorSpec
from pair_texts import check_pair

_HEADS, _SIZE, _WIDTH, _LAYERS = 4, 8, 32, 2
_KINDS = ("decoder", "encoder")


def _names(prefix: str, kinds: tuple[str, ...] = _KINDS) -> list[str]:
    layers = [(layer, kind, part) for layer in range(_LAYERS) for kind in kinds for part in ("key", "value")]
    return [f"{prefix}.{layer}.{kind}.{part}" for layer, kind, part in layers]


def _kept(cache: Any, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    caches = {"decoder": cache.self_attention_cache.layers, "encoder": cache.cross_attention_cache.layers}
    tensors = [
        tensor for layer in range(_LAYERS) for kind in kinds
        for tensor in (caches[kind][layer].keys, caches[kind][layer].values)
    ]  # fmt: skip
    return dict(zip(_names("present", kinds), tensors, strict=True))


class _FirstCall(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, encoder_hidden_states: Any, encoder_attention_mask: Any = None) -> dict[str, Any]:
        mask = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        answer = self.model(
            decoder_input_ids=input_ids, encoder_outputs=encoded(encoder_hidden_states, None), use_cache=True, **mask
        )
        return {"logits": answer.logits, **_kept(answer.past_key_values, _KINDS)}


class _LaterCall(_FirstCall):
    def forward(self, input_ids: Any, encoder_attention_mask: Any = None, **past: Any) -> dict[str, Any]:  # type: ignore[override]
        own, cross = ([past[name] for name in _names("past_key_values", (kind,))] for kind in _KINDS)
        mask = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        hidden = cross[0].new_zeros((cross[0].shape[0], cross[0].shape[2], 1))
        answer = self.model(
            decoder_input_ids=input_ids, encoder_outputs=encoded(hidden, None), use_cache=True,
            past_key_values=EncoderDecoderCache(filled_cache(own), filled_cache(cross)), **mask,
        )  # fmt: skip
        return {"logits": answer.logits, **_kept(answer.past_key_values, ("decoder",))}


def _axes(name: str, places: int | str) -> tuple[int | str, ...]:
    if name.endswith((".key", ".value")):
        length = places if ".encoder." in name else "past" if name.startswith("past") else "total"
        return ("batch", _HEADS, length, _SIZE)
    return {
        "input_ids": ("batch", "tokens"),
        "encoder_attention_mask": ("batch", places), "attention_mask": ("batch", places),
        "encoder_hidden_states": ("batch", places, _WIDTH), "last_hidden_state": ("batch", places, _WIDTH),
        "logits": ("batch", "tokens", 99), "input_features": ("batch", 8, 100),
    }[name]  # fmt: skip


def _write(module: torch.nn.Module, path: Path, inputs: list[str], outputs: list[str], places: int | str) -> None:
    tokens = 7 if path.stem == "encoder_model" else 1 if "past" in path.stem else 3
    lengths: dict[Any, Any] = {"batch": 2, "tokens": tokens, "past": 4, "places": 7}
    rng = np.random.default_rng(3)
    samples: dict[str, Any] = {}
    for name in inputs:
        shape = [lengths.get(axis, axis) for axis in _axes(name, places)]
        drawn = np.ones(shape, np.int64) if "mask" in name else rng.standard_normal(shape).astype(np.float32)
        samples[name] = torch.tensor(rng.integers(3, 99, shape) if name == "input_ids" else drawn)

    def specs(names: list[str]) -> tuple[TensorSpec, ...]:
        axes = {name: _axes(name, places) for name in names}
        return tuple(TensorSpec(name=name, dtype="float32", shape=axes[name]) for name in names)

    asked = OnnxRequest(
        module=module, samples=samples, inputs=specs(inputs), outputs=specs(outputs), opset=17, path=path
    )
    with quiet(), export_ready(module):
        writer("torchscript")(asked)


def _merge(first: Path, later: Path, path: Path) -> None:
    """Write both calls as branches of one graph, as Optimum does; what a branch does not make it hands on."""
    graphs = [onnx.load(file).graph for file in (later, first)]
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graphs[1].output]
    inputs = {value.name: value for graph in graphs for value in graph.input}
    made = {value.name: value for value in graphs[0].output}
    branch = [made.get(value.name) or inputs[value.name.replace("present", "past_key_values")] for value in outputs]
    handed = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in branch]
    del graphs[0].output[:]
    graphs[0].output.extend(handed)
    for graph in graphs:
        del graph.input[:]
    chosen = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    node = helper.make_node(
        "If", ["use_cache_branch"], [value.name for value in outputs], then_branch=graphs[0], else_branch=graphs[1]
    )
    whole = helper.make_graph([node], "merged", [*inputs.values(), chosen], outputs)
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _exported(kind: str, folder: Path, *, merged: bool = False) -> Path:
    folder.mkdir()
    model = encoder_decoder(kind)
    places: int | str = 50 if kind == "whisper" else "places"
    main = ["input_features"] if kind == "whisper" else ["input_ids", "attention_mask"]
    mask = [] if kind == "whisper" else ["encoder_attention_mask"]
    _write(EncoderModule(model), folder / "encoder_model.onnx", main, ["last_hidden_state"], places)
    first, later = folder / "decoder_model.onnx", folder / "decoder_with_past_model.onnx"
    calls = [*mask, "input_ids"]
    _write(_FirstCall(model), first, [*calls, "encoder_hidden_states"], ["logits", *_names("present")], places)
    inputs, outputs = [*calls, *_names("past_key_values")], ["logits", *_names("present", ("decoder",))]
    _write(_LaterCall(model), later, inputs, outputs, places)
    if merged:
        _merge(first, later, folder / "decoder_model_merged.onnx")
        first.unlink()
        later.unlink()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "merged"), [("t5", False), ("bart", True)])
def test_texts_are_those_of_eager(kind: str, merged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    fast = accelerate(_exported(kind, tmp_path / "theirs", merged=merged))
    assert fast.report is not None and "NOT compared" in fast.report.notes[0]
    given = check_pair(fast, encoder_decoder(kind), tmp_path / "out")
    padded: Any = {**given, "decoder_attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])}
    with pytest.raises(InputError, match="exported without a mask"):
        fast.generate(**padded, max_new_tokens=3)


def test_sounds_are_written_as_by_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    fast, model = accelerate(_exported("whisper", tmp_path / "theirs")), encoder_decoder("whisper")
    features = torch.tensor(np.random.default_rng(3).standard_normal((2, 8, 100)).astype(np.float32))
    asked: Any = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(fast.generate(input_features=features, **asked), model.generate(features, **asked))


def test_a_configuration_of_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    theirs = _exported("t5", tmp_path / "theirs", merged=False)
    stated = json.loads((theirs / "config.json").read_text(encoding="utf-8"))
    for name, what in (("vocab_size", "ids"), ("num_decoder_layers", "layers of the decoder"), ("d_model", "hidden")):
        wrong = {**stated, name: stated[name] + 8}
        (theirs / "config.json").write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(SourceError, match=f"config.json states {wrong[name]} {what}.*, and its graphs have"):
            accelerate(theirs)


def test_a_decoder_without_a_cache_is_refused(tmp_path: Path) -> None:
    for name in ("encoder_model", "decoder_model"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"decoder_model\.onnx(.|\n)*decoder_with_past_model\.onnx(.|\n)*accelerate"):
        accelerate(tmp_path)
