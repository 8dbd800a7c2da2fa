"""Artifacts and models by hub id, against a stand-in for the hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml

Files = dict[str, bytes]


@dataclass(kw_only=True)
class Hub:
    """Repositories in memory: each a list of commits, the newest last. `log` has every request."""

    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    address: str = ""

    def put(self, repository: str, files: Files) -> str:
        """Commit a whole set of files."""
        history = self.commits.setdefault(repository, [])
        state = json.dumps([len(history), sorted((name, hashlib.sha1(raw).hexdigest()) for name, raw in files.items())])
        sha = hashlib.sha1(state.encode()).hexdigest()
        history.append((sha, files))
        return sha

    def at(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit that a branch or hash names."""
        history = self.commits.get(repository, [])
        if revision == "main":
            return history[-1] if history else None
        return next((commit for commit in history if commit[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    """The few requests that huggingface_hub makes to upload and to download a snapshot."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are in `Hub.log`."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, headers={"X-Error-Code": code, "X-Error-Message": "there is none"})

    def _serve(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                method(self, body, *found.groups())
                return
        self.hub.unknown.append(f"{self.command} {path}")
        self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - http.server's names

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.hub.commits.get(name):
            self.hub.put(name, {})
        self._json({"url": f"{self.hub.address}/{name}"})

    def preupload(self, body: bytes, repository: str, revision: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".onnx") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def card(self, body: bytes) -> None:
        """The check of a card's header, which the hub makes before an upload."""
        header = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        assert header["library_name"] == "optimum-core"
        self._json({"errors": [], "warnings": []})

    def batch(self, body: bytes, repository: str) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{entry['oid']}"}}}
            for entry in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def blob(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(200)

    def commit(self, body: bytes, repository: str, revision: str) -> None:
        files = dict(self.hub.commits[repository][-1][1])
        for line in filter(None, body.splitlines()):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = self.hub.put(repository, files)
        url = f"{self.hub.address}/{repository}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url})

    def info(self, body: bytes, repository: str, revision: str | None = None) -> None:
        found = self.hub.at(repository, revision or "main")
        if found is None:
            self._missing("RevisionNotFound" if repository in self.hub.commits else "RepoNotFound")
            return
        siblings = [{"rfilename": name} for name in found[1]]
        self._json({"id": repository, "modelId": repository, "sha": found[0], "siblings": siblings, "private": False})

    def tree(self, body: bytes, repository: str, revision: str) -> None:
        found = self.hub.at(repository, revision)
        if found is None:
            self._missing("RevisionNotFound")
            return
        self._json(
            [
                {"type": "file", "path": name, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                for name, raw in found[1].items()
            ]
        )

    def resolve(self, body: bytes, repository: str, revision: str, name: str) -> None:
        found = self.hub.at(repository, revision)
        if found is None or name not in found[1]:
            self._missing("EntryNotFound" if found else "RepoNotFound")
            return
        raw = found[1][name]
        self._answer(200, raw, {"ETag": f'"{hashlib.sha256(raw).hexdigest()}"', "X-Repo-Commit": found[0]})


_REPOSITORY = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.card),
    (rf"POST /api/models/{_REPOSITORY}/preupload/(\w+)", _Handler.preupload),
    (rf"POST /{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /blobs/(\w+)", _Handler.blob),
    (rf"POST /api/models/{_REPOSITORY}/commit/(\w+)", _Handler.commit),
    (rf"GET /api/models/{_REPOSITORY}/revision/(\w+)", _Handler.info),
    (rf"GET /api/models/{_REPOSITORY}", _Handler.info),
    (rf"GET /api/models/{_REPOSITORY}/tree/(\w+)", _Handler.tree),
    (rf"(?:GET|HEAD) /{_REPOSITORY}/resolve/(\w+)/(.+)", _Handler.resolve),
)


@contextmanager
def _hub() -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()
    assert made.unknown == [], "huggingface_hub asked for what the stand-in does not know"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with _hub() as made:
        yield made


Run = Callable[..., Any]


def _run(hub: Hub, folder: Path, code: str, *arguments: str | Path, **more: str) -> Any:
    """Run code in a process that takes the stand-in for the hub; return what it left in `result`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "OPTIMUM_"))}
    env |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_nobody",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OPTIMUM_CACHE_DIR": str(folder / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    program = (
        "import json, sys\nimport numpy as np\nimport optimum_core\nfrom optimum_core import accelerate, load\n"
        "from optimum_core.errors import OptimumError\nargs = sys.argv[1:]\n"
        f"{code}\nprint(json.dumps(result))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env | more,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    return partial(_run, hub, tmp_path)


def _files(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


IDS = np.array([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
_ANSWER = f"np.asarray(fast(input_ids=np.array({IDS.tolist()})).logits).tolist()"


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A model as `save_pretrained` writes it, an artifact of it, and eager's logits for `IDS`."""
    import torch

    from optimum_core import accelerate

    folder = tmp_path_factory.mktemp("saved")
    model = tiny("bert")
    model.save_pretrained(folder / "plain")
    with torch.no_grad():
        fast = accelerate(
            model, target="ort", level="all", shapes=({"batch": 1},), budget=0, cache_dir=folder / "cache"
        )
        fast.save_pretrained(folder / "artifact")
        return folder / "plain", folder / "artifact", model(torch.tensor(IDS)).logits.numpy()


def test_pushed_and_loaded(saved: tuple[Path, Path, Any], hub: Hub, run: Run) -> None:
    _, artifact, want = saved
    hub.put("me/kept", {"README.md": b"mine"})
    push = "fast = load(args[0])\nresult = [fast.push_to_hub(name) for name in ('me/fast', 'me/kept')]"
    url, _ = run(push, artifact)
    sha, files = hub.commits["me/fast"][-1]
    assert url == f"{hub.address}/me/fast/commit/{sha}"
    assert files == _files(artifact) and b"library_name: optimum-core" in files["README.md"]
    assert hub.commits["me/kept"][-1][1] == {**files, "README.md": b"mine"}
    load_it = f"fast = load('me/fast')\nresult = [fast.backend, 'torch' in sys.modules, {_ANSWER}]"
    backend, torch_imported, got = run(load_it)
    assert (backend, torch_imported) == ("ort", False)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    hub.log.clear()
    assert run(load_it, HF_HUB_OFFLINE="1")[2] == got
    assert hub.log == []


def test_a_revision(saved: tuple[Path, Path, Any], hub: Hub, run: Run) -> None:
    first = hub.put("me/fast", _files(saved[1]))
    hub.put("me/fast", {"README.md": b"it moved"})
    code = """
result = load("me/fast", revision=args[0]).task
try:
    load("me/fast")
except OptimumError as error:
    result = [result, type(error).__name__, str(error)]
"""
    task, kind, said = run(code, first)
    assert (task, kind) == ("text-classification", "ArtifactError")
    assert "no optimum.json" in said


def test_an_altered_download_is_refused(saved: tuple[Path, Path, Any], hub: Hub, run: Run) -> None:
    files = _files(saved[1])
    name = next(name for name in files if name.endswith(".onnx"))
    raw = bytearray(files[name])
    raw[-7] ^= 1
    hub.put("me/fast", {**files, name: bytes(raw)})
    code = "try: load('me/fast')\nexcept OptimumError as error: result = [type(error).__name__, str(error)]"
    kind, said = run(code)
    assert kind == "ArtifactError"
    assert name in said
    assert "sha256" in said


_ACCELERATED = f"""
def told(name):
    try:
        return accelerate(name, target="torch", budget=0)
    except OptimumError as error:
        return [type(error).__name__, str(error), error.remedy]
fast = told("some-one/a.model")
result = [[fast.name_or_path, {_ANSWER}], told("evil/model"), told("no/such")]
"""


@pytest.fixture(scope="module")
def accelerated(
    saved: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Any], list[str]]]:
    """The results or errors of `accelerate` for three ids, of one process, and the requests to the hub."""
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    fatal = b"raise SystemExit(7)"
    with _hub() as hub:
        hub.put("some-one/a.model", {**_files(saved[0]), "pytorch_model.bin": b"x" * 1000, "evil.py": fatal})
        hub.put("evil/model", {"config.json": json.dumps(config).encode(), "own.py": fatal})
        yield _run(hub, tmp_path_factory.mktemp("accelerated"), _ACCELERATED), hub.log


def test_accelerate_by_hub_id(saved: tuple[Path, Path, Any], accelerated: tuple[list[Any], list[str]]) -> None:
    ((name, got), _, _), log = accelerated
    assert name == "some-one/a.model"
    np.testing.assert_allclose(got, saved[2], rtol=1e-3, atol=1e-3)
    fetched = {line.rpartition("/")[2] for line in log if line.startswith("GET") and "/resolve/" in line}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "evil.py"}


def test_code_of_a_repository_is_refused_before_it_is_fetched(accelerated: tuple[list[Any], list[str]]) -> None:
    (_, (kind, said, _), _), log = accelerated
    assert kind == "SourceError"
    assert "trust_remote_code=True" in said
    assert any("evil/model" in line for line in log)
    assert not any(".py" in line for line in log)


def _is_named_as_missing(outcome: list[str], log: list[str]) -> bool:
    _, said, remedy = outcome
    return "'no/such'" in said and "HF_HUB_OFFLINE" in remedy and any("no/such" in line for line in log)


def test_a_repository_that_is_not_there(accelerated: tuple[list[Any], list[str]], hub: Hub, run: Run) -> None:
    (_, _, missing), log = accelerated
    assert missing[0] == "SourceError" and _is_named_as_missing(missing, log)
    code = (
        "try: load('no/such')\nexcept OptimumError as error: result = [type(error).__name__, str(error), error.remedy]"
    )
    missing = run(code)
    assert missing[0] == "ArtifactError" and _is_named_as_missing(missing, hub.log)
