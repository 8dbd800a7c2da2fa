"""Decoders with compressed weights in OpenVINO: with their cache, by every algorithm, and through `accelerate`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from optimum_core import accelerate, load
from optimum_core.errors import OptionError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.hardware import detect
from optimum_core.measure import Effort, measuring
from optimum_core.models.signatures.decoder_signature import FirstCalls
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, decoder_of, described
from optimum_core.testing.pictures import picture_inputs, picture_model, picture_rows
from optimum_core.testing.quantizing import weight_only
from optimum_core.types import Artifact, QuantizeRequest, SessionRequest
from optimum_core.types.arrays import NDArray
from optimum_core.verify import dialogues
from optimum_openvino.devices import cpu_precisions

Quantize = Callable[..., Artifact]


def rows(count: int) -> list[dict[str, NDArray]]:
    rng = np.random.default_rng(1)
    return [{"input_ids": rng.integers(3, 99, (1, int(length)))} for length in rng.integers(8, 20, count)]


@pytest.fixture
def llama(exported: Callable[..., Artifact]) -> Artifact:
    return exported("llama", "openvino-ir", route="module")


@pytest.fixture
def quantize(llama: Artifact, tmp_path: Path) -> Quantize:
    known = decoder_of(described("llama"))

    def run(**fields: Any) -> Artifact:
        return manager().quantize(
            QuantizeRequest(
                backend="openvino",
                artifact=llama,
                config=weight_only(**fields),
                output=tmp_path,
                hardware=detect(),
                calibration=FirstCalls(decoder=known, batches=rows(12)),
            )
        )

    return run


def started(artifact: Artifact) -> Decoder:
    request = SessionRequest(backend="openvino", artifact=artifact, device="cpu", hardware=detect(), threads=1)
    return Decoder(manager().load_session(request), manager().binder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": "int8"},
        {"weights": "int4", "group_size": 16, "algorithm": "scale-estimation"},
        {"weights": "int4", "group_size": 16, "algorithm": "gptq"},
    ],
)
def test_a_row_is_answered_as_alone_and_near_the_original(
    fields: dict[str, Any], quantize: Quantize, llama: Artifact
) -> None:
    drives, exact = started(quantize(**fields)), started(llama)
    ids, mask = np.random.default_rng(2).integers(3, 99, (2, 12)), np.ones((2, 12), np.int64)
    mask[0, :5] = 0
    generation = drives.begin(2)
    pieces = [generation.feed(ids[:, a:b], mask[:, :b], "counts") for a, b in ((0, 7), (7, 11), (11, 12))]
    alone = drives.begin(1).feed(ids[:1, 5:])
    np.testing.assert_allclose(np.concatenate(pieces, axis=1)[:1, 5:], alone, atol=1e-3)
    want = exact.begin(1).feed(ids[:1, 5:])
    error = np.linalg.norm(alone - want) / np.linalg.norm(want)
    assert 1e-4 < error < (0.03 if fields["weights"] == "int8" else 0.3)


def test_a_cache_in_8_bits_is_near_the_one_in_floats_and_no_copy_of_it(llama: Artifact) -> None:
    assert llama.state is not None
    small, exact = started(replace(llama, state=replace(llama.state, cache="int8"))), started(llama)
    ids = np.random.default_rng(3).integers(3, 99, (2, 24))
    answers = []
    for drives in (small, exact):
        generation = drives.begin(2)
        generation.feed(ids[:, :12])
        generation.reorder([1, 0])
        generation.crop(11)
        answers.append(np.concatenate([generation.feed(ids[::-1, at : at + 1]) for at in range(11, 24)], axis=1))
    error = np.linalg.norm(answers[0] - answers[1]) / np.linalg.norm(answers[1])
    assert 1e-4 < error < 0.05


def test_layers_of_a_decoder_stay_in_float_by_their_names(quantize: Quantize) -> None:
    made = quantize(weights="int8", exclude=("model.layers.1", "lm_head", "model.embed_tokens"))
    operations = openvino.Core().read_model(made.main_file).get_ops()
    rounded = [
        item
        for item in operations
        if item.get_type_name() == "Constant" and item.get_element_type().get_type_name() in ("i8", "u8")
    ]
    products = {item.get_friendly_name().partition("/")[0] for item in rounded if len(item.get_output_shape(0)) > 1}
    assert products and all(".layers.0." in name for name in products)
    with pytest.raises(OptionError, match=r"'model.layer.0'(.|\n)*model\.layers"):
        quantize(weights="int8", exclude=("model.layer.0",))


def test_a_model_is_quantized_with_its_cache_in_8_bits_by_perplexity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogues, "GREEDY", 16)
    asked: Any = {
        "target": "openvino", "quantize": weight_only(cache="int8"),
        "evaluate": ("perplexity", rows(30)), "max_drop": "2%", "shapes": [(1, 8, 4)], "cache_dir": tmp_path / "cache",
    }  # fmt: skip
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(decoder("llama"), **asked)
    assert fast.report is not None
    promise = fast.report.promise
    assert promise is not None and promise.kept and promise.metric == "perplexity"
    assert "may rise by 2 %" in str(fast.report)
    kept = [result for result in fast.report.walk if result.outcome == "kept"][-1]
    assert kept.value is not None and kept.value <= promise.baseline * 1.02 and kept.config["cache"] == "int8"
    state = fast.manifest.parts["decoder"].state
    assert state is not None and state.cache == "int8"
    ids = rows(1)[0]["input_ids"]
    want = fast.generate(ids, max_new_tokens=8, do_sample=False)
    fast.save_pretrained(tmp_path / "out")
    assert np.array_equal(load(tmp_path / "out").generate(ids, max_new_tokens=8, do_sample=False), want)
    again = accelerate(decoder("llama"), **asked).report
    assert again is not None and again.from_cache


@pytest.mark.all_cores  # with one thread, its compiler ends the process
@pytest.mark.skipif("bf16" not in cpu_precisions(detect().cpu), reason="this processor has no bf16")
def test_bf16_competes_and_is_compared_by_its_tolerance(tmp_path: Path) -> None:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(decoder("llama"), target="openvino", precision="bf16", shapes=[(1, 8, 4)], cache_dir=tmp_path)
    fidelity = fast.manifest.fidelity
    assert fidelity is not None
    assert fast.manifest.precision == fidelity.precision == "bf16"
    text = fidelity.results[-1]
    assert "greedy text" in text.case and text.divergence is not None and 0 < text.divergence < 0.1


def test_a_model_of_pictures_is_quantized_in_its_decoder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogues, "GREEDY", 8)
    asked: Any = {**picture_rows("llava"), "max_new_tokens": 6, "do_sample": False}
    wanted = picture_model("llava").generate(**asked)

    def alike(model: Any) -> float:
        return float((model.generate(**asked) == wanted).float().mean())

    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(
            picture_model("llava"), target="openvino", quantize="weight-only-int8", evaluate=alike, max_drop=0.5,
            shapes=[(1, 16, 4)], cache_dir=tmp_path / "cache", sample_inputs=picture_inputs("llava"), budget=1,
        )  # fmt: skip
    assert fast.report is not None and fast.report.promise is not None and fast.report.promise.kept
    hooks = {name: [step.hook for step in part.steps] for name, part in fast.manifest.parts.items()}
    assert hooks.pop("decoder")[:2] == ["export", "quantize"]
    assert all("quantize" not in others for others in hooks.values())
    assert fast.manifest.fidelity is not None
    assert any("a text behind pictures" in result.case for result in fast.manifest.fidelity.results)
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        assert loaded.generate(**asked).tolist() == fast.generate(**asked).tolist()
