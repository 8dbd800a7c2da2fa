"""Models that are opened: a fault of one leaves the others as they are, and an end of the server ends the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_core import load
from optimum_serve import ModelSettings, serving


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_backend_that_breaks_at_the_start_leaves_the_other_models(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(source: Path, **options: Any) -> Any:
        if source.name == "encoder":
            raise ZeroDivisionError("oops")
        return load(source, **options)

    monkeypatch.setattr(serving, "load", opened)
    live = serve("encoder", "classifier", wait=False)
    models = live.app.state.server.models
    _until(lambda: models["classifier"].is_ready)
    assert live.client.get("/ready").json()["models"] == {"encoder": "failed", "classifier": "ready"}
    assert models["encoder"].problem == "ZeroDivisionError: oops"
    assert live.client.post("/predict", json={"inputs": "w5"}).status_code == 200
    live.stop()


def test_a_server_that_stops_while_a_model_is_accelerated_gives_it_up(
    serve: Any, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path))
    sources = [ModelSettings(source=str(artifacts / "sources" / name)) for name in ("classifier", "reranker")]
    live = serve(*sources, wait=False)
    _until(lambda: any(tmp_path.rglob("*")))
    live.stop()
    models = live.app.state.server.models
    assert not any(model.is_ready or model.problem for model in models.values())
    assert not any(tmp_path.rglob("optimum.json"))
