"""A model is never changed by being tried: every call runs on a copy that has seen no other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification

from optimum_core.models.eager.calls import ask, call, eager_outputs
from optimum_core.models.eager.copies import throwaway
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.eager.sensitivity import rank_layers
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.verify.reference import reference_cases


class Counter(torch.nn.Module):
    calls = 0


class Remembers(torch.nn.Module):
    """Keeps what it saw in every way that there is."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(()))
        self.longest = 0
        self.seen: list[int] = []
        self.by_length: dict[int, list[float]] = {0: []}
        self.inner = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += 1  # in place
        self.inner.calls += 1
        self.longest = max(self.longest, x.shape[1])
        self.seen.append(x.shape[1])
        self.by_length[0].append(float(x.shape[0]))
        memory = self.total + self.inner.calls + self.longest + len(self.seen) + len(self.by_length[0])
        made: torch.Tensor = self.linear(x) + memory
        return made


def _memory(module: Remembers) -> tuple[Any, ...]:
    return (float(module.total), module.longest, module.seen, module.by_length, module.inner.calls)


def test_what_a_copy_sees_no_other_knows() -> None:
    module = Remembers().eval()
    x = torch.randn(2, 3, 4)
    first = ask(module, {"x": x})
    for length in (1, 9):
        ask(module, {"x": torch.randn(1, length, 4)})
    assert torch.equal(ask(module, {"x": x}), first)
    assert _memory(module) == (0.0, 0, [], {0: []}, 0)


def test_describing_and_asking_leave_the_model_as_it_was() -> None:
    module = Remembers().eval()
    source = MemorySource(module)
    signature = describe(source.module(), name="it", samples={"x": torch.randn(2, 3, 4)})
    cases = reference_cases(source.module(), signature)
    assert _memory(module) == (0.0, 0, [], {0: []}, 0)
    for case in cases:
        want = copy.deepcopy(module)(torch.as_tensor(case.inputs["x"])).detach().numpy()
        np.testing.assert_array_equal(case.outputs["output"], want, case.name)
    call(source.module(), {"x": torch.randn(1, 30, 4)})  # as an exporter would
    assert _memory(source.module()) == (0.0, 0, [], {0: []}, 0)


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "resnet", "clip", "wav2vec2", "whisper"])
def test_a_copy_computes_the_same_with_the_same_weights(kind: str, tiny: Callable[[str], Any], described: Any) -> None:
    module, made = tiny(kind), throwaway(tiny(kind))
    assert all(a is b for a, b in zip(throwaway(module).parameters(), module.parameters(), strict=True))
    parts = dict(module.named_modules())
    assert not any(part is parts[name] for name, part in throwaway(module).named_modules())
    assert throwaway(module).config is not module.config
    from optimum_core.models.inputs.samples import Case

    inputs = described(kind)[1].draw(Case(name="any", seed=7))
    with torch.no_grad():
        want = {name: value.numpy() for name, value in flatten(call(module, inputs)).items()}
    for name, value in eager_outputs(made, inputs).items():
        np.testing.assert_array_equal(value, want[name], name)


def test_swin_is_compared_with_one_that_saw_no_small_picture() -> None:
    torch.manual_seed(0)
    config = SwinConfig(image_size=64, window_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2])
    model = SwinForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    source = MemorySource(model)
    for case in reference_cases(source.module(), describe(source.module(), name="swin")):
        with torch.no_grad():
            want = copy.deepcopy(model)(pixel_values=torch.as_tensor(case.inputs["pixel_values"])).logits
        np.testing.assert_allclose(case.outputs["logits"], want.numpy(), rtol=0, atol=1e-5, err_msg=case.name)


@contextmanager
def _watched(module: torch.nn.Module) -> Iterator[list[str]]:
    """Changes of a model's weights and hooks that another thread sees meanwhile."""
    before = {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}
    changes: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name, value in module.state_dict().items():
                if value.data_ptr() != before[name][0] or not torch.equal(value, before[name][1]):
                    changes.append(name)
            changes.extend(name for name, part in module.named_modules() if part._forward_pre_hooks)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield changes
    finally:
        done.set()
        thread.join()


def test_another_thread_sees_no_rounded_weights_while_layers_are_ranked() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4))).eval()
    with _watched(module) as changes:
        ranked = rank_layers(module, [{"input": torch.randn(8, 16)} for _ in range(8)])
    assert all(error > 0 for error in ranked.values())
    assert not changes


def test_weights_that_are_tied_are_rounded_together(tiny: Callable[[str], Any]) -> None:
    model = tiny("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    ranked = rank_layers(model, [{"input_ids": torch.randint(5, 99, (2, 9))}])
    assert ranked["lm_head"] > 0
    assert ranked["transformer.wte"] > 0
