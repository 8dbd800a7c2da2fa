from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from letters import write_letters
from optimum_core import accelerate
from optimum_core.testing.kinds import tiny_module
from optimum_core.testing.sharing import shared
from optimum_serve import ModelSettings, Settings, create_app
from optimum_serve.connections import DrainingServer, uvicorn_options
from requests_by_hand import Send
from sentence_directories import NORMALIZE, pooling, write_directory, write_tokenizer
from waiting import until

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant]"
Serve = Callable[..., "Live"]


class Live:
    """A server that runs in a thread of this process, at a port of its own."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        config = uvicorn.Config(self.app, **{**uvicorn_options(settings), "port": 0, "timeout_graceful_shutdown": 60})
        self._server = DrainingServer(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        (port,) = {socket.getsockname()[1] for server in self._server.servers for socket in server.sockets}
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def wait(self) -> None:
        """Wait until all models answer."""
        until(lambda: self.client.get("/ready").status_code == 200)

    def told_to_stop(self) -> None:
        """Tell it to stop, as SIGTERM does."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop it, and wait for the end."""
        self.told_to_stop()
        self._thread.join(240)
        assert not self._thread.is_alive()
        self.client.close()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accelerated tiny models, a directory each: encoder, reranker, classifier, writer, pictures."""
    return shared(tmp_path_factory, "served", _accelerated)


def _accelerated(made: Path) -> Path:
    sources, cache = made / "sources", made / "cache"
    settings = {"prompts": {"query": "w5 "}}
    encoder = write_directory(sources / "encoder", pooling("mean"), NORMALIZE, settings=settings)
    texts = {"reranker": tiny_module("bert", num_labels=1), "classifier": tiny_module("bert", num_labels=3)}
    texts["classifier"].config.id2label = {0: "BAD", 1: "GOOD", 2: "SO-SO"}
    for name, module in texts.items():
        module.save_pretrained(sources / name)
        write_tokenizer(sources / name)
    tiny_module(
        "llama", vocab_size=258, max_position_embeddings=128, bos_token_id=256, eos_token_id=257
    ).save_pretrained(sources / "writer")
    write_letters(sources / "writer", TEMPLATE)
    tiny_module("vit").save_pretrained(sources / "pictures")
    _image_processor().save_pretrained(sources / "pictures")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("encoder", "reranker", "classifier", "writer", "pictures"):
        source = encoder if name == "encoder" else sources / name
        with accelerate(source, target="ort", budget=0, cache_dir=cache) as fast:
            fast.save_pretrained(made / name)
    torch.set_num_threads(threads)
    return made


def _image_processor() -> Any:
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": 32, "width": 32})


NAMES = ("encoder", "reranker", "classifier", "writer", "pictures")


@pytest.fixture(scope="session")
def serve(artifacts: Path) -> Iterator[Serve]:
    """Start a server of these models with these settings."""
    running: list[Live] = []

    def start(*names: str | ModelSettings, wait: bool = True, **settings: Any) -> Live:
        models = tuple(
            name if isinstance(name, ModelSettings) else ModelSettings(source=str(artifacts / name), name=name)
            for name in names or NAMES
        )
        live = Live(Settings(models=models, **{"access_log": False, **settings}))
        running.append(live)
        if wait:
            live.wait()
        return live

    yield start
    for live in running:
        if live._thread.is_alive():
            live.stop()


@pytest.fixture(scope="session")
def live(serve: Serve) -> Live:
    """A server of all models."""
    return serve()


@pytest.fixture
def send(live: Live) -> Send:
    """A function that posts a body of JSON, right or wrong."""

    def post(path: str, body: bytes) -> httpx.Response:
        return live.client.post(path, content=body, headers={"Content-Type": "application/json"})

    return post
