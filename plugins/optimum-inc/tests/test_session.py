from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, OptionError, SessionError
from optimum_core.types import Artifact, Session, SessionRequest
from optimum_inc import plugin
from optimum_inc.session import InductorSession

Load = Callable[..., InductorSession]


def drawn(bert: Any, seed: int, batch: int = 3, length: int = 9) -> dict[str, Any]:
    made: dict[str, Any] = bert.draw(seed=seed, batch=batch, sequence=length)
    return made


def logits(session: InductorSession, inputs: Any) -> Any:
    return np.asarray(session.run(inputs)["logits"])


def test_runs_through_the_hooks(package: Artifact, bert: Any, session_request: Callable[..., SessionRequest]) -> None:
    session = plugin.load_session(session_request(package))
    assert isinstance(session, Session)
    assert (session.backend, session.device) == ("inc", "cpu")
    assert (session.inputs, session.outputs) == (package.inputs, package.outputs)
    outputs = plugin.infer(session, drawn(bert, 1))
    assert outputs is not None and list(outputs) == ["logits"]
    assert plugin.load_session(session_request(package, backend="other")) is None


def test_layouts_and_libraries_of_arrays_do_not_matter(session: InductorSession, bert: Any) -> None:
    inputs = drawn(bert, 2)
    expected = logits(session, inputs).copy()

    def read_only(x: Any) -> Any:
        x = x.copy()
        x.flags.writeable = False
        return x

    changes: tuple[Callable[[Any], Any], ...] = (
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(">i8"),
        torch.from_numpy,
        lambda x: torch.from_numpy(x.T.copy()).T,
        read_only,
    )
    for change in changes:
        changed = {name: change(value) for name, value in inputs.items()}
        np.testing.assert_allclose(logits(session, changed), expected, rtol=1e-6)


def test_outputs_are_fresh_and_outlive_the_session(package: Artifact, load: Load, bert: Any) -> None:
    session = load(package)
    first = logits(session, drawn(bert, 3))
    kept = first.copy()
    second = logits(session, drawn(bert, 4))
    assert not np.shares_memory(first, second) and not np.array_equal(first, second)
    session.close()
    np.testing.assert_array_equal(first, kept)


def test_closed(package: Artifact, load: Load, bert: Any) -> None:
    session = load(package)
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run(drawn(bert, 1))


def test_wrong_names(session: InductorSession, bert: Any) -> None:
    inputs = drawn(bert, 1)
    with pytest.raises(InputError, match="missing: input_ids; unknown: ids"):
        session.run({"ids": inputs.pop("input_ids"), **inputs})


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.int32),
        lambda x: x[0],
        lambda x: x[:, :-1],
        lambda x: x[:1],
        lambda x: x[:, :0],
    ],
    ids=["float", "int32", "rank", "shorter", "fewer", "empty"],
)
def test_wrong_arrays_do_not_reach_native_code(
    change: Callable[[Any], Any], session: InductorSession, bert: Any
) -> None:
    inputs = drawn(bert, 1)
    inputs["input_ids"] = change(inputs["input_ids"])
    with pytest.raises(SessionError, match=r"the run failed: .") as caught:
        session.run(inputs)
    assert "input_ids: int64['batch', 'sequence']" in caught.value.remedy
    assert logits(session, drawn(bert, 1)).shape == (3, 5)


def test_lengths_and_tokens_beyond_the_model_are_errors(session: InductorSession, bert: Any) -> None:
    with pytest.raises(SessionError, match="axis 'sequence' has length 65, and at most 64"):
        session.run({spec.name: np.ones((1, 65), np.int64) for spec in session.inputs})
    for token in (120, -1):
        inputs = drawn(bert, 1)
        inputs["input_ids"][0, 0] = token  # compiled code ends the process on it
        with pytest.raises(SessionError, match="the model knows 0 to 119"):
            session.run(inputs)


def test_unreadable_values(session: InductorSession, bert: Any) -> None:
    inputs = drawn(bert, 1)
    for value in ([[1, 2]], np.array([["a"]]), torch.ones(3, 9, requires_grad=True)):
        with pytest.raises((InputError, SessionError), match="input_ids"):
            session.run({**inputs, "input_ids": value})  # type: ignore[dict-item]


def test_threads_get_equal_results(session: InductorSession, bert: Any) -> None:
    given = [drawn(bert, seed, batch=1 + seed % 3, length=5 + seed) for seed in range(8)]
    expected = [logits(session, inputs).copy() for inputs in given]

    def work(number: int) -> bool:
        place = number % len(given)
        return np.allclose(logits(session, given[place]), expected[place], rtol=1e-5, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_threads_of_the_caller_stay_as_they_are(package: Artifact, load: Load, bert: Any) -> None:
    before = torch.get_num_threads()
    load(package, threads=before + 1).run(drawn(bert, 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("content", [b"", b"garbage", "truncated", "altered"])
def test_broken_files_are_named(content: Any, package: Artifact, load: Load, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package.path, copy)
    path = copy / package.files[0]
    whole = bytearray(path.read_bytes())
    if content == "altered":
        whole[len(whole) // 2] ^= 255
        content = bytes(whole)
    path.write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(SessionError, match="not whole"):
        load(dataclasses.replace(package, path=copy))
    path.unlink()
    with pytest.raises(SessionError, match="does not exist"):
        load(dataclasses.replace(package, path=copy))


def test_a_package_of_another_kind_is_refused(package: Artifact, exported: Artifact, load: Load) -> None:
    with pytest.raises(SessionError, match="not written by this backend"):
        load(dataclasses.replace(exported, format="torch-inductor"))
    fewer = dataclasses.replace(package, inputs=package.inputs[:2])
    with pytest.raises(SessionError, match="its inputs are"):
        load(fewer)
    wrong = dataclasses.replace(package.outputs[0], dtype="float16")
    with pytest.raises(SessionError, match="output 'logits' is float32"):
        load(dataclasses.replace(package, outputs=(wrong,)))


def test_code_for_another_processor_is_not_opened(package: Artifact, session_request: Any) -> None:
    request = session_request(package)
    cpu = dataclasses.replace(request.hardware.cpu, features=frozenset({"sse2"}))
    with pytest.raises(SessionError, match="compiled for a processor with") as caught:
        InductorSession(dataclasses.replace(request, hardware=dataclasses.replace(request.hardware, cpu=cpu)))
    assert "on this machine" in caught.value.remedy


def test_other_devices_and_precisions_are_refused(package: Artifact, load: Load) -> None:
    for changes in ({"device": "gpu"}, {"precision": "bf16"}, {"options": {"threads": 1}}):
        with pytest.raises(OptionError):
            load(package, **changes)
