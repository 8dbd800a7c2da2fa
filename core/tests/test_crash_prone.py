"""A backend says where its runtime may end the process: such a candidate is tried in a child process first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import OptimumError
from optimum_core.plugins import manager
from plugin_site import Site

_EXPORT = """
import os, signal
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Artifact, Offer, Support

@hookimpl
def export(request):
    if request.backend == "fragile":
        (request.output / "model.acme").write_bytes(b"graph")
        return Artifact(format="acme", path=request.output, files=("model.acme",), inputs=request.inputs,
                        outputs=request.outputs)

"""

_FRAGILE = """
@hookimpl
def probe(hardware):
    return Support(offers=(Offer(
        device="cpu", exports=("acme",), loads=("acme",), precisions=("fp32", "bf16"), crash_prone=({prone},),
    ),), versions={{"acme": "1"}})

@hookimpl
def load_session(request):
    if request.backend == "fragile":
        if os.getpid() != {parent}:
            os.kill(os.getpid(), signal.SIGFPE)
        raise RuntimeError("opened in the caller's process")
"""


_SESSION = """
class Session:
    backend, device, streams, crash_prone = "fragile", "cpu", 1, {prone}
    def __init__(self, artifact):
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
    def close(self):
        pass

@hookimpl
def probe(hardware):
    return Support(offers=(Offer(device="cpu", exports=("acme",), loads=("acme",), precisions=("fp32",)),),
                   versions={{"acme": "1"}})

@hookimpl
def load_session(request):
    if request.backend == "fragile":
        return Session(request.artifact)

@hookimpl
def infer(session, inputs):
    if session.backend == "fragile":
        if os.getpid() != {parent}:
            os.kill(os.getpid(), signal.SIGFPE)
        raise RuntimeError("called in the caller's process")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    manager.cache_clear()
    yield Site(folder)
    manager.cache_clear()


@pytest.mark.parametrize("target", ["fragile", "fragile:cpu:0"])
@pytest.mark.parametrize(("prone", "told"), [("'fp32'", "SIGFPE"), ("'bf16'", "opened in the caller's process")])
def test_a_crash_of_the_child_fails_the_candidate(site: Site, prone: str, told: str, target: str) -> None:
    site.add("fragile", _EXPORT + _FRAGILE.format(prone=prone, parent=os.getpid()))
    with pytest.raises(OptimumError, match=told):
        accelerate(torch.nn.Linear(2, 2), target=target, sample_inputs={"input": torch.ones(3, 2)}, budget=0)


@pytest.mark.parametrize(("prone", "told"), [(True, "SIGFPE"), (False, "called in the caller's process")])
def test_a_session_that_may_crash_is_called_in_a_child_first(site: Site, prone: bool, told: str) -> None:
    site.add("fragile", _EXPORT + _SESSION.format(prone=prone, parent=os.getpid()))
    with pytest.raises(OptimumError, match=told):
        accelerate(torch.nn.Linear(2, 2), target="fragile", sample_inputs={"input": torch.ones(3, 2)}, budget=0)
