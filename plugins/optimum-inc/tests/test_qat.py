from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import OptionError
from optimum_core.hardware import detect
from optimum_core.types import QuantizeConfig
from optimum_inc import qat
from optimum_inc.session import InductorSession

pytest.importorskip("neural_compressor", reason="the extra `quantize` is not installed")


def tensors(bert: Any, seed: int) -> dict[str, torch.Tensor]:
    drawn = bert.draw(seed=seed, batch=6)
    return {name: torch.as_tensor(value) for name, value in drawn.items()}


@pytest.fixture(scope="module")
def taught(bert: Any, bert_module: Callable[[], Any]) -> Any:
    """Trained with rounding, on labels that it did not know."""
    model = qat.prepare(bert_module(), calibration=bert.batches())
    inputs, labels = tensors(bert, 200), torch.arange(6) % 5
    with torch.no_grad():
        before = float(model(**inputs, labels=labels).loss)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(30):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        assert float(model(**inputs, labels=labels).loss) < before / 2
    return model


def test_a_prepared_model_is_still_itself(bert: Any, bert_module: Callable[[], Any]) -> None:
    model = bert_module()
    names = set(model.state_dict())
    prepared = qat.prepare(model, exclude=["classifier"], calibration=bert.batches())
    assert prepared is model and not model.training
    assert names < set(model.state_dict())
    assert type(model).__name__ == "BertForSequenceClassification"
    assert type(model.classifier) is torch.nn.Linear
    assert isinstance(model.bert.pooler.dense, qat.RoundedLinear)
    inputs, original = tensors(bert, 1), bert_module()
    with torch.no_grad():
        rounded, exact = model(**inputs).logits, original(**inputs).logits
        again = copy.deepcopy(model)(**inputs).logits
    assert torch.equal(rounded, again)
    assert 0 < float((rounded - exact).abs().max()) < 0.2 * float(exact.abs().max())


@pytest.mark.parametrize(
    ("features", "asked", "bounds"),
    [
        ({"avx2"}, None, (-64, 63)),
        ({"avx2", "avx_vnni"}, None, (-128, 127)),
        ({"avx2"}, False, (-128, 127)),
        ({"avx512_vnni"}, True, (-64, 63)),
    ],
)
def test_weights_have_the_range_that_does_not_overflow(
    features: set[str], asked: bool | None, bounds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = detect()
    cpu = dataclasses.replace(here.cpu, architecture="x86_64", features=frozenset(features))
    monkeypatch.setattr(qat, "detect", lambda: dataclasses.replace(here, cpu=cpu))
    model = qat.prepare(torch.nn.Sequential(torch.nn.Linear(300, 2)), reduce_range=asked)
    layer = model[0].eval()
    given = torch.eye(300).unsqueeze(1) * 255
    layer.input_high.fill_(255)
    layer.scale_inputs()
    with torch.no_grad():
        levels = (layer(given) - layer.bias).squeeze(1) / 255 / layer.weight_scale
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    low, high = bounds
    assert low <= int(levels.round().min()) < low / 1.2 and high / 1.2 < int(levels.round().max()) <= high


def test_gradients_pass_and_ranges_stand_still_in_evaluation(bert: Any, bert_module: Callable[[], Any]) -> None:
    model = qat.prepare(bert_module(), calibration=bert.batches())
    layer = model.bert.pooler.dense
    model.train()
    before = layer.input_high.clone()
    model(**tensors(bert, 1)).logits.sum().backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs().sum()) > 0
    assert not torch.equal(layer.input_high, before)
    model.eval()
    before = layer.input_high.clone()
    model(**tensors(bert, 2))
    assert torch.equal(layer.input_high, before)


class TwoLayers(torch.nn.Module):
    """A transformer's feed-forward network: little to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down(torch.relu(self.up(x)))
        return found


def test_what_was_trained_is_what_runs(tmp_path: Path, load: Callable[..., InductorSession]) -> None:
    torch.manual_seed(0)
    given, wanted = torch.randn(6, 64), torch.randn(6, 64)
    model = qat.prepare(TwoLayers(), calibration=[{"x": given.numpy()}])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(30):
        (model(given) - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    output = tmp_path / "out"
    output.mkdir()
    artifact = qat.to_artifact(model, output, samples={"x": given})
    chosen = artifact.steps[-1].options
    assert artifact.format == "torch-inductor"
    assert (chosen["calibration"], chosen["ranges"], sum(chosen["calls"].values())) == ("training", 2, 2)
    session = load(artifact)
    for seed in (1, 2, 3):
        inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = model(inputs).numpy()
        (got,) = session.run({"x": inputs.numpy()}).values()
        # A sum that differs in its last digit may round to the next step.
        assert np.abs(np.asarray(got) - expected).max() < 0.05 * np.abs(expected).max()
    session.close()


def test_others_run_what_was_trained(taught: Any, bert: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    output = tmp_path / "out"
    output.mkdir()
    config = QuantizeConfig(form="qdq", exclude=("classifier",))
    artifact = qat.to_artifact(taught, output, config=config)
    assert (artifact.format, artifact.steps[-1].options["ranges"]) == ("onnx", 7)
    session = onnxruntime.InferenceSession(artifact.main_file, providers=["CPUExecutionProvider"])
    inputs = tensors(bert, 1)
    (got,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = taught(**inputs).logits.numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_what_makes_no_sense_is_refused(bert_module: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"(?s)'head'.*classifier"):
        qat.prepare(bert_module(), exclude=["head"])
    with pytest.raises(OptionError, match="no linear layer"):
        qat.prepare(torch.nn.Sequential(torch.nn.ReLU()))
    untrained = qat.prepare(bert_module())
    with pytest.raises(OptionError, match="no ranges"):
        qat.to_artifact(untrained, tmp_path)
    with pytest.raises(OptionError, match="prepared already"):
        qat.prepare(untrained)
