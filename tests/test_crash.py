"""Killed processes, several processes at once, and altered files: the cache serves only what is whole and true."""

from __future__ import annotations

import random
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.accelerating import Child

from optimum_core.cache import Cache
from optimum_core.types import Event


@pytest.fixture(scope="module")
def directory(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tiny("bert").save_pretrained(place)
    return place


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(cache: Path, stop: str = "") -> Child:
        children.append(Child(directory, cache, stop))
        return children[-1]

    yield make
    for child in children:
        child.kill()


def _check_whole(directory: Path, cache: Path, model: Any, to_ort: Callable[..., Any]) -> None:
    """Every visible entry is complete, and the model can be accelerated to eager's values."""
    for entry in Cache(cache).list():
        assert any(entry.path.iterdir()), f"{entry.kind} {entry.key} is empty"
    fast = to_ort(directory, cache_dir=cache)
    ids = torch.randint(1, 110, (2, 9), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
    visible = {entry.kind: entry.path for entry in Cache(cache).list()}
    assert {"export", "model"} <= set(visible)
    hidden = [item for kind in ("export", "model") for item in (cache / "v2" / kind).glob(".*")]
    assert hidden == [], "what the killed process left was not swept"


@pytest.mark.parametrize("stage", ["export", "optimize", "verify", "measure"])
def test_killed_in_a_stage(
    stage: str,
    start: Callable[..., Child],
    directory: Path,
    tiny: Callable[[str], Any],
    to_ort: Callable[..., Any],
    tmp_path: Path,
) -> None:
    child = start(tmp_path, stage)
    child.until(stage)
    child.kill()
    assert Cache(tmp_path).list() == () or {entry.kind for entry in Cache(tmp_path).list()} == {"export"}
    _check_whole(directory, tmp_path, tiny("bert"), to_ort)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment(
    seed: int,
    start: Callable[..., Child],
    directory: Path,
    tiny: Callable[[str], Any],
    to_ort: Callable[..., Any],
    tmp_path: Path,
) -> None:
    child = start(tmp_path)
    child.until("describe")
    time.sleep(random.Random(seed).uniform(0, 2))
    child.kill()
    _check_whole(directory, tmp_path, tiny("bert"), to_ort)


def test_two_processes_export_once(start: Callable[..., Child], tmp_path: Path) -> None:
    first = start(tmp_path)
    first.until("export")
    second = start(tmp_path).all_events()
    rest = list(first.events())
    assert sum(event == ["export", True] for event in rest) == 1
    assert not any(stage in ("export", "describe", "measure") for stage, _ in second)
    assert rest[-1] == ["done", False]
    assert second[-1] == ["done", True]


def test_the_second_process_waits_and_says_so(start: Callable[..., Child], tmp_path: Path) -> None:
    first = start(tmp_path, "measure")
    first.until("measure")
    second = start(tmp_path)
    second.until("wait")
    first.kill()  # the lock dies with it, and the second takes over what was exported
    stages = [event[0] for event in second.events()]
    assert "export" not in stages
    assert {"cache", "measure", "done"} <= set(stages)


def _flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    file.write_bytes(raw)


@pytest.mark.parametrize("kinds", [("model",), ("export",), ("model", "export")], ids="+".join)
def test_an_altered_entry_is_built_anew(
    kinds: tuple[str, ...], directory: Path, to_ort: Callable[..., Any], tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    to_ort(directory, cache_dir=tmp_path).close()
    entries = {entry.kind: entry for entry in Cache(tmp_path).list()}
    for kind in kinds:
        _flip(next(entries[kind].path.glob("*.onnx*")))
    if "model" not in kinds:
        Cache(tmp_path).discard("model", entries["model"].key)
    events: list[Event] = []
    fast = to_ort(directory, cache_dir=tmp_path, progress=events.append)
    assert fast.report is not None and not fast.report.from_cache
    assert any(event.stage == "export" for event in events) == ("export" in kinds)
    ids = torch.randint(1, 110, (2, 9), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want = tiny("bert")(input_ids=ids).logits
    torch.testing.assert_close(fast(input_ids=ids).logits, want, rtol=1e-3, atol=1e-3)
    again = to_ort(directory, cache_dir=tmp_path)
    assert again.report is not None and again.report.from_cache


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out


def _small() -> Small:
    torch.manual_seed(3)
    return Small().eval()


def test_a_replaced_method_is_seen(to_ort: Callable[..., Any], tmp_path: Path) -> None:
    samples = {"x": torch.rand(2, 6)}
    to_ort(_small(), sample_inputs=samples, cache_dir=tmp_path)
    patched = _small()
    patched.forward = types.MethodType(  # type: ignore[method-assign]
        lambda self, x: 2 * self.linear(x) + 1, patched
    )
    fast = to_ort(patched, sample_inputs=samples, cache_dir=tmp_path)
    assert fast.report is not None and not fast.report.from_cache
    x = torch.rand(5, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), 2 * _small().linear(x) + 1, rtol=1e-3, atol=1e-4)
    back = to_ort(_small(), sample_inputs=samples, cache_dir=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(back(x), _small()(x), rtol=1e-3, atol=1e-4)


def test_a_hook_is_seen(to_ort: Callable[..., Any], tmp_path: Path) -> None:
    samples = {"x": torch.rand(2, 6)}
    to_ort(_small(), sample_inputs=samples, cache_dir=tmp_path)
    hooked = _small()
    hooked.linear.register_forward_hook(lambda module, args, output: output.abs())
    x = torch.rand(5, 6) - 0.5
    got = to_ort(hooked, sample_inputs=samples, cache_dir=tmp_path)(x)
    assert got.min() >= 0
    with torch.no_grad():
        torch.testing.assert_close(got, hooked(x), rtol=1e-3, atol=1e-4)


_SCALE = {"by": 1.0}


class Scaled(Small):
    """Depends on what lies outside of it, as no fingerprint can see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) * _SCALE["by"]
        return out


def test_what_lies_outside_of_a_model_is_seen(
    to_ort: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    model, x = Scaled().eval(), torch.rand(5, 6)
    before = to_ort(model, sample_inputs={"x": x}, cache_dir=tmp_path)(x)
    monkeypatch.setitem(_SCALE, "by", 3.0)
    fast = to_ort(model, sample_inputs={"x": x}, cache_dir=tmp_path)
    torch.testing.assert_close(fast(x), 3 * before, rtol=1e-3, atol=1e-4)
    assert "wrong" not in {item.outcome for item in fast.report.candidates}, "a former export was tried"


def test_changed_weights_are_another_model(to_ort: Callable[..., Any], tmp_path: Path) -> None:
    samples = {"x": np.ones((2, 6), np.float32)}
    before = to_ort(_small(), sample_inputs=samples, cache_dir=tmp_path)
    changed = _small()
    with torch.no_grad():
        changed.linear.bias.add_(1.0)
    after = to_ort(changed, sample_inputs=samples, cache_dir=tmp_path)
    x = np.random.default_rng(0).random((4, 6), np.float32)
    np.testing.assert_allclose(after(x), before(x) + 1.0, rtol=1e-3, atol=1e-3)
