"""The whole path on a GPU: build, open, run, against eager. Not yet run: no machine with a fitting GPU was at hand."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Artifact, OptimizeRequest, SessionRequest
from optimum_core.verify import verify
from optimum_trt.devices import running_problem
from optimum_trt.modules import find

_PROBLEM = running_problem(find(), detect())
pytestmark = pytest.mark.skipif(
    _PROBLEM is not None, reason=f"{_PROBLEM.reason} ({_PROBLEM.remedy})" if _PROBLEM else ""
)

Make = Callable[..., OptimizeRequest]


def opened(artifact: Artifact, **changes: Any) -> Any:
    request = SessionRequest(backend="trt", artifact=artifact, device="cuda", hardware=detect())
    return manager().load_session(dataclasses.replace(request, **changes))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_it_agrees_with_eager(kind: str, precision: str, tiny: Any, building: Make) -> None:
    made = tiny(kind)
    engine = manager().optimize(building(made.artifact, device="cuda", precision=precision))
    session = opened(engine)
    run = manager().binder(session)
    try:
        for _ in range(3):  # as enqueued, as recorded, as replayed
            fidelity = verify(run, made.cases, engine.outputs, precision=precision)
            assert fidelity.passed, fidelity.worst
    finally:
        session.close()


def test_a_decoder_with_its_cache(gpt2: Any, building: Make) -> None:
    shapes = ({"batch": 1, "sequence": 1, "past": 9},)
    session = opened(manager().optimize(building(gpt2.artifact, device="cuda", shapes=shapes)), shapes=shapes)
    run = manager().binder(session)
    for shape in ({"past": 0, "query": 7}, {"batch": 1, "past": 9, "query": 1}, {"batch": 3, "past": 20, "query": 4}):
        inputs = gpt2.draw(**shape)
        got, want = run(inputs), gpt2.eager(inputs)
        for name, value in want.items():
            assert np.abs(np.asarray(got[name]) - value).max() <= 1e-3 * np.abs(value).max(), name
    session.close()


def test_device_tensors_in_and_out(tiny: Any, building: Make) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    made = tiny("bert")
    session = opened(manager().optimize(building(made.artifact, device="cuda")))
    case = made.cases[0]
    got = manager().binder(session)({name: torch.from_numpy(value).cuda() for name, value in case.inputs.items()})
    for name, value in case.outputs.items():
        assert np.abs(torch.from_dlpack(got[name]).cpu().numpy() - value).max() <= 1e-3 * np.abs(value).max()
    session.close()


def test_several_threads(tiny: Any, building: Make) -> None:
    made = tiny("vit")
    session = opened(manager().optimize(building(made.artifact, device="cuda")), streams=2)
    run, failures = manager().binder(session), []

    def work() -> None:
        fidelity = verify(run, made.cases, session.outputs, precision="fp32")
        if not fidelity.passed:
            failures.append(fidelity.worst)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    session.close()
