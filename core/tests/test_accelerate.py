"""`accelerate`: refusals, failures, and things that it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.errors import (
    ArtifactError,
    InputError,
    OptimumError,
    OptionError,
    SourceError,
    UnavailableError,
    UnprovedWarning,
    VerificationError,
)
from optimum_core.models.backends.eager_torch.plugin import has_compiler
from optimum_core.plugins import manager
from optimum_core.types import Event

ONCE = ({"batch": 1},)


@pytest.fixture(scope="module", autouse=True)
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def _ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(1, 110, (batch, length), generator=torch.Generator().manual_seed(length))


def _assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    scale = want.detach().abs().max().clamp(min=1e-6)
    torch.testing.assert_close(got / scale, want.detach() / scale, rtol=1e-3, atol=1e-3)


# Arguments that make no sense are refused before any work.


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"target": "orrt"}, UnavailableError, r"'orrt': is not installed(.|\n)*did you mean 'ort'"),
        ({"target": ""}, OptionError, "names nothing"),
        ({"target": "ort:tpu"}, UnavailableError, r"target 'ort:tpu'(.|\n)*optimum-core plugins"),
        ({"options": {"intra_op_threads": 1}}, OptionError, r"target is 'auto'(.|\n)*target='backend'"),
        ({"level": "all"}, OptionError, "target is 'auto'"),
        ({"options": "x", "target": "torch"}, OptionError, r"'x' is no mapping(.|\n)*options="),
        ({"options": {"x": 1}, "target": "torch"}, OptionError, r"unknown option 'x'(.|\n)*takes none"),
        ({"options": {"intra_op_threads": "x"}, "target": "ort"}, OptionError, "cannot be 'x'"),
        ({"level": "warp", "target": "ort"}, OptionError, r"level 'warp' of backend 'ort'(.|\n)*use all"),
        ({"level": "all", "target": "openvino"}, OptionError, "it has no levels"),
        ({"task": "text-generation"}, OptionError, r"is for text-classification, not text-generation"),
        ({"quantize": "int8", "max_drop": 5}, OptionError, r"5 allows everything(.|\n)*pass evaluate="),
        ({"target": "ort:cuda"}, UnavailableError, r"cannot run on 'cuda'|runs on"),
        ({"target": "tensorrt"}, UnavailableError, "trt"),
        ({"target": "cpu"}, UnavailableError, r"is a device(.|\n)*:cpu'"),
        ({"task": "cooking"}, OptionError, r"'cooking' is unknown(.|\n)*text-classification"),
        ({"precision": "fp7"}, OptionError, r"'fp7' is offered by no backend(.|\n)*fp32"),
        ({"target": "ort:"}, OptionError, "'ort:' names no device"),
        ({"verify": "no"}, OptionError, "'no' is neither True nor False"),
        ({"budget": True}, OptionError, "True is no number of seconds"),
        ({"processor": 3}, OptionError, "of type int, which cannot"),
        ({"trust_remote_code": "x"}, OptionError, "'x' is neither True nor False"),
        ({"quantize": "int8", "max_drop": -1}, OptionError, r"a drop below zero(.|\n)*pass 0 or more"),
        ({"shapes": (1, 16)}, OptionError, r"1 is neither a pair"),
        ({"cache_dir": ""}, OptionError, "is no path"),
        ({"shapes": 5}, OptionError, "5 is neither a pair"),
        ({"shapes": "small"}, OptionError, "'small' is neither a pair"),
        ({"shapes": [(1, "long")]}, OptionError, r"\(1, 'long'\) is neither"),
    ],
)
def test_arguments_are_refused_before_work(
    arguments: dict[str, Any], error: type[OptimumError], said: str, tiny: Callable[[str], Any]
) -> None:
    events: list[Event] = []
    with pytest.raises(error, match=said):
        accelerate(tiny("bert"), progress=events.append, **arguments)
    assert events == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([], "there are none"),
        ([(0, 4)], "batch 0 is out of range"),
        ([(1, 999)], "sequence 999 is out of range"),
        ([{"height": 3}], "no varying axis 'height'"),
    ],
)
def test_shapes_that_the_model_cannot_take_are_refused_before_it_is_exported(
    shapes: list[Any], said: str, tiny: Callable[[str], Any]
) -> None:
    events: list[Event] = []
    with pytest.raises(OptionError, match=said):
        accelerate(tiny("bert"), shapes=shapes, progress=events.append)
    assert not {event.stage for event in events} & {"export", "reference", "verify"}


def test_an_unknown_option_names_the_nearest(tiny: Callable[[str], Any]) -> None:
    with pytest.raises(OptionError, match=r"backend 'ort': unknown option(.|\n)*did you mean 'intra_op_threads'"):
        accelerate(tiny("bert"), target="ort", level="all", shapes=ONCE, options={"intra_op_thread": 1})


def test_options_reach_the_backend_that_was_named(tiny: Callable[[str], Any]) -> None:
    fast = accelerate(tiny("bert"), target="ort", level="all", shapes=ONCE, options={"intra_op_threads": 1}, budget=0)
    assert dict(fast.manifest.session_options) == {"intra_op_threads": 1}


def test_a_module_without_samples_says_what_to_pass() -> None:
    with pytest.raises(OptionError, match=r"says nothing of what it takes(.|\n)*sample_inputs="):
        accelerate(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("model", [3, "/no/such/place", "a/b/c", Path("/no/such"), torch.ones(1)])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(SourceError):
        accelerate(model)


def test_a_directory_that_was_accelerated_is_for_load(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    accelerate(tiny("bert"), target="torch", shapes=ONCE, budget=0).save_pretrained(tmp_path / "out")
    with pytest.raises(SourceError, match=r"accelerated already(.|\n)*load"):
        accelerate(tmp_path / "out")


def test_code_beside_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoModel": "modeling.Own"}}')
    (tmp_path / "modeling.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(SourceError, match=r"auto_map(.|\n)*trust_remote_code=True"):
        accelerate(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_disabled_backend(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_DISABLED_BACKENDS", "ort")
    manager.cache_clear()
    try:
        with pytest.raises(OptimumError, match="OPTIMUM_DISABLED_BACKENDS"):
            accelerate(tiny("bert"), target="ort")
        fast = accelerate(tiny("bert"), shapes=ONCE, budget=0)
    finally:
        manager.cache_clear()
    assert fast.backend != "ort"
    assert fast.report is not None
    assert not any(item.backend == "ort" for item in fast.report.candidates)


# Targets.


def test_target_torch_saved_and_loaded(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    model = tiny("bert")
    fast = accelerate(model, target="torch", shapes=ONCE, budget=0)
    assert (fast.backend, fast.manifest.backend) == ("torch", "torch")
    fast.save_pretrained(tmp_path / "out")
    loaded = load(tmp_path / "out")
    ids = _ids(3, 11)
    want = model(ids).logits
    _assert_close(fast(ids).logits, want)
    _assert_close(loaded(input_ids=ids).logits, want)
    assert loaded.backend == "torch"
    with torch.no_grad():  # what was saved is the model as it was, not a view of the user's
        model.classifier.bias.add_(5.0)
    _assert_close(loaded(input_ids=ids).logits, want)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # at its first import
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_a_level_that_is_named_is_tried_whatever_the_budget() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    sample = {"input": torch.randn(2, 4)}
    fast = accelerate(module, target="torch", level="compile", budget=0.001, sample_inputs=sample, shapes=ONCE)
    chosen = fast.report and fast.report.chosen
    assert chosen and chosen.options == {"level": "compile"}


def test_a_plain_module_that_stayed_eager_cannot_be_saved_and_says_so(tmp_path: Path) -> None:
    fast = accelerate(torch.nn.Linear(3, 2), target="torch", sample_inputs=torch.ones(2, 3), budget=0)
    with pytest.raises(OptimumError, match=r"without its code(.|\n)*target='ort'"):
        fast.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_not_verified_is_written_and_shown(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    fast = accelerate(tiny("bert"), target="ort", level="all", shapes=ONCE, verify=False, budget=0)
    fast.save_pretrained(tmp_path / "out")
    for model in (fast, load(tmp_path / "out")):
        assert not model.manifest.verified
        assert model.manifest.fidelity is None
        assert "NOT verified" in repr(model)
    verified = accelerate(tiny("bert"), target="ort", level="all", shapes=ONCE, budget=0)
    assert verified.manifest.verified
    assert "NOT" not in repr(verified)


# Models that an exporter gets wrong.


class Unrolled(torch.nn.Module):
    """A loop over the sequence in Python: tracing keeps as many steps as it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(int(x.shape[1])):
            state = torch.tanh(self.linear(x[:, step]) + state)
        return state


def test_an_axis_that_was_not_proved_is_fixed_and_refused() -> None:
    torch.manual_seed(0)
    model = Unrolled().eval()
    fast = accelerate(
        model, target="ort", level="all", sample_inputs={"x": torch.rand(2, 7, 4)}, shapes=[{"batch": 1}], budget=0
    )
    batch, length, width = fast.manifest.inputs[0].shape
    assert batch == "batch"
    assert isinstance(length, int)
    assert width == 4
    x = torch.rand(5, length, 4)
    _assert_close(fast(x), model(x))
    with pytest.raises(
        InputError, match=rf"'x': expected length {length} at axis \d, which is fixed, got {length + 1}"
    ):
        fast(torch.rand(5, length + 1, 4))


class Opaque(torch.nn.Module):
    """Leaves tensors for Python numbers: what a tracer keeps of it is a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([math.erf(value) for value in x.flatten().tolist()]).reshape(x.shape)


def test_what_no_exporter_gets_right_stays_eager() -> None:
    fast = accelerate(Opaque(), sample_inputs={"x": torch.rand(2, 3)})
    x = torch.rand(4, 3) - 0.5
    _assert_close(fast(x), torch.erf(x))
    assert fast.backend == "torch"
    assert fast.report is not None
    others = [item for item in fast.report.candidates if item.backend != "torch"]
    assert others
    assert {"wrong"} <= {item.outcome for item in others} <= {"wrong", "failed", "skipped"}
    assert all(item.reason for item in others)


def test_what_no_exporter_gets_right_is_not_returned() -> None:
    with pytest.raises(VerificationError) as raised:
        accelerate(Opaque(), target="ort", sample_inputs={"x": torch.rand(2, 3)})
    rows = [line for line in raised.value.why.splitlines() if "→ ort cpu" in line]
    assert rows
    assert all(row.partition(": ")[2].strip() for row in rows)
    assert "target='torch'" in raised.value.remedy


class Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def test_a_model_that_draws_random_numbers_cannot_be_checked() -> None:
    with pytest.raises(VerificationError, match="random numbers"):
        accelerate(Random(), sample_inputs={"x": torch.rand(2, 3)})


@pytest.mark.parametrize("mode", [partial(torch.autocast, "cpu", torch.bfloat16), torch.inference_mode])
def test_modes_around_the_call_change_nothing(mode: Callable[[], Any]) -> None:
    """Under autocast, eager would be compared and exported in 16 bits."""
    x = torch.rand(2, 64)
    with mode():
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 4)).eval()
        fast = accelerate(model, target="ort", level="all", sample_inputs={"input": x}, shapes=ONCE, budget=0)
    assert fast.report is not None and fast.report.chosen is not None and fast.report.chosen.fidelity is not None
    worst = fast.report.chosen.fidelity.worst
    assert worst is not None and worst.relative_error < 1e-5
    with torch.no_grad():
        want = model(x)
    np.testing.assert_allclose(fast(input=x), want, rtol=1e-4, atol=1e-5)


# The user's model is left alone.


def _state(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("target", ["torch", "ort"])
def test_a_model_in_training_mode_stays_so_and_drops_nothing_out(target: str, tiny: Callable[[str], Any]) -> None:
    eager, model = tiny("bert"), tiny("bert").train()
    model.classifier.eval()  # a mixture, as of a model partly frozen
    modes = {name: part.training for name, part in model.named_modules()}
    grads = {name: part.requires_grad for name, part in model.named_parameters()}
    before = _state(model)
    fast = accelerate(model, target=target, level="all" if target == "ort" else None, shapes=ONCE, budget=0)
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert {name: part.requires_grad for name, part in model.named_parameters()} == grads
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    ids = _ids(2, 9)
    _assert_close(fast(ids).logits, eager(ids).logits)
    model.train()
    _assert_close(fast(ids).logits, eager(ids).logits)
    model(ids).logits.sum().backward()
    assert model.classifier.weight.grad is not None


def test_a_twin_shares_the_weights(tiny: Callable[[str], Any]) -> None:
    from optimum_core.models.sources.source import MemorySource

    model = tiny("bert").train()
    module = MemorySource(model).module()
    pointers = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in module.named_parameters()} == pointers


class Uncopyable(torch.nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("there is one of me")


def test_a_module_that_cannot_be_copied() -> None:
    model = Uncopyable(3, 2)
    with pytest.raises(SourceError, match=r"cannot be copied(.|\n)*eval\(\)"):
        accelerate(model, target="torch", sample_inputs=torch.ones(2, 3), budget=0)
    fast = accelerate(model.eval(), target="torch", sample_inputs=torch.ones(2, 3), budget=0)
    _assert_close(fast(torch.ones(1, 3)), model(torch.ones(1, 3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_held_in_16_bits(dtype: torch.dtype, tiny: Callable[[str], Any]) -> None:
    model = tiny("bert").to(dtype)
    before = _state(model)
    exact = copy.deepcopy(model).float()
    fast = accelerate(model, target="ort", level="all", shapes=ONCE, budget=0)
    assert fast.dtype == torch.float32
    _assert_close(fast(_ids(2, 9)).logits, exact(_ids(2, 9)).logits)
    assert all(
        tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])
        for name, tensor in model.state_dict().items()
    )


def test_returned_is_what_load_returns(tiny: Callable[[str], Any]) -> None:
    assert isinstance(accelerate(tiny("bert"), target="torch", shapes=ONCE, budget=0), AcceleratedModel)


class _Counts(torch.nn.Module):
    """A forward that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = torch.nn.Linear(4, 4), 0

    def forward(self, x: torch.Tensor, flag: bool = True, n: int = 2) -> torch.Tensor:
        self.calls += 1
        made: torch.Tensor = self.linear(x) * n + (self.calls if flag else 0)
        return made


def test_a_model_that_counts_its_calls_is_returned_with_a_warning(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    with pytest.warns(UnprovedWarning, match="keeps a state between calls"):
        fast = accelerate(_Counts().eval(), target="ort", sample_inputs={"x": x}, shapes=ONCE, budget=0)
    assert fast.report is not None and fast.report.remembers
    fast.save_pretrained(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="is no path"):
        fast.save_pretrained(None)  # type: ignore[arg-type]
    loaded = load(tmp_path / "saved")
    assert fast.proof == loaded.proof == "NOT as eager after other calls"
    assert fast.proof in repr(fast) and fast.proof in repr(loaded)
    accepted = loaded(x, True, n=2)
    assert torch.equal(accepted, loaded(x))
    for name, value in {"flag": False, "n": 3}.items():
        with pytest.raises(InputError, match=rf"{name}={value}.*exported with {name}="):
            loaded(x, **{name: value})
