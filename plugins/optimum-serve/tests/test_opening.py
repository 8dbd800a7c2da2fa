"""Models that are opened: a fault of one leaves the others as they are, and an end of the server ends the work."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from optimum_core import load
from optimum_serve import ModelSettings, Settings, serving
from optimum_serve.opener import Opener
from optimum_serve.server import Server
from waiting import until


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
    until(lambda: models["classifier"].is_ready)
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
    until(lambda: any(tmp_path.rglob("*")))
    live.stop()
    models = live.app.state.server.models
    assert not any(model.is_ready or model.problem for model in models.values())
    assert not any(tmp_path.rglob("optimum.json"))


def test_where_the_process_ends_a_stage_of_a_search_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []

    def stage(source: str, **options: Any) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            begun.append(Path(folder))
            while True:
                time.sleep(0.01)

    monkeypatch.setattr(serving, "accelerate", stage)
    server = Server(Settings(models=(ModelSettings(source="one"), ModelSettings(source="two"))))
    opener = Opener(list(server.models.values()), interrupts=True)
    opening = threading.Thread(target=lambda: asyncio.run(opener.run()))
    opening.start()
    until(lambda: begun)
    opener.end(60)
    opening.join(60)
    assert not opening.is_alive() and len(begun) == 1
    assert not begun[0].exists() and not any(model.problem for model in server.models.values())
    asyncio.run(server.stop())
