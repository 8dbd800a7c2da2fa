"""A server of artifacts imports neither torch nor transformers, where these are installed too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_CHILD = """
import json, sys, time
from starlette.testclient import TestClient
from optimum_serve import ModelSettings, Settings, create_app

name, path, body = sys.argv[2:]
app = create_app(Settings(models=(ModelSettings(source=sys.argv[1], name=name),), access_log=False))
with TestClient(app) as client:
    while client.get("/ready").status_code != 200:
        assert all(not model.get("problem") for model in client.get("/status.json").json()["models"])
        time.sleep(0.01)
    answer = client.post(path, content=body)
    client.get("/metrics"), client.get("/info"), client.get("/")
print(json.dumps([answer.status_code, sorted({"torch", "transformers"} & set(sys.modules))]))
"""


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("encoder", "/v1/embeddings", {"input": ["w5 w6", "w7"], "model": "encoder"}),
        ("reranker", "/rerank", {"query": "w5", "texts": ["w6", "w7 w8"]}),
        ("classifier", "/predict", {"inputs": "w5 w6"}),
        ("writer", "/v1/completions", {"prompt": "ab", "max_tokens": 3}),
    ],
)
def test_a_server_of_artifacts_imports_no_torch(name: str, path: str, body: dict[str, object], artifacts: Path) -> None:
    command = [sys.executable, "-c", _CHILD, str(artifacts / name), name, path, json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [200, []]
