"""Ray Serve: replicas on machines of two kinds, and one that is killed under load.

Ray is 240 MB and has an environment of its own; see docs/scaling.md for how to run this.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from optimum_core import load

ENVIRONMENT = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
os.environ.update(ENVIRONMENT)  # Ray reads some of them when it is imported
pytest.importorskip("ray.serve")
ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1200)]
URL = "http://127.0.0.1:8123"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two raylets, one without ONNX Runtime and one without OpenVINO."""
    from ray import serve
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        made.add_node(num_cpus=2, include_dashboard=False, env_vars={"OPTIMUM_DISABLED_BACKENDS": "ort"})
        made.add_node(num_cpus=2, env_vars={"OPTIMUM_DISABLED_BACKENDS": "openvino"})
        ray.init(address=made.address, log_to_driver=True)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": 8123})
        yield made
        serve.shutdown()
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def served(cluster: Any, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from ray import serve

    from optimum_serve.ray import deployment

    app = deployment(
        f"classifier={artifacts / 'sources' / 'classifier'}",
        store=str(tmp_path_factory.mktemp("store")),
        replicas=(2, 2),
        settings={"max_queue": 8192},
    )
    assert len(cluster.list_all_nodes()) == 2
    serve.run(app, route_prefix="/")
    return URL


def _ask(url: str, number: int, inputs: int = 1) -> httpx.Response:
    texts = [[f"w{4 + (number + index) % 50} w9"] for index in range(inputs)]
    return httpx.post(f"{url}/predict", json={"inputs": texts}, timeout=120)


def _replicas() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if "ServeReplica:default:replica" in "".join(_line(process))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_each_machine_has_what_suits_it_and_a_killed_replica_loses_nothing(served: str, artifacts: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(partial(_ask, served), range(100)))
        assert {answer.status_code for answer in first} == {200}
        runs = {answer.headers["optimum-runs"].split(" on ")[0] for answer in first}
        assert {text.split()[0] for text in runs} == {"openvino", "ort"}, runs
        asked = [pool.submit(_ask, served, number, 256) for number in range(60)]
        while sum(one.done() for one in asked) < 8:
            time.sleep(0.01)
        os.kill(_replicas()[0].pid, signal.SIGKILL)  # eight requests are under way, half of them there
        found = [one.result() for one in asked]
    assert Counter(answer.status_code for answer in found) == {200: 60}
    assert Counter(answer.headers["optimum-tries"] for answer in found)["2"] >= 1
    model = load(artifacts / "classifier")
    for number in (0, 30, 59):
        logits = model.map([f"w{4 + (number + index) % 50} w9" for index in range(256)]).logits
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        shares = powers.max(-1) / powers.sum(-1)
        scores = [max(item["score"] for item in row) for row in found[number].json()]
        np.testing.assert_allclose(scores, shares, atol=1e-5)
    end = time.monotonic() + 300
    while (
        len({_ask(served, number).headers.get("optimum-runs") for number in range(20)}) < 2
    ):  # another takes its place
        assert time.monotonic() < end
        time.sleep(1)


def test_under_load_another_replica_is_started(cluster: Any, artifacts: Path) -> None:
    from ray import serve

    from optimum_serve.ray import deployment

    app = deployment(
        f"classifier={artifacts / 'classifier'}", replicas=(1, 2), requests=2, settings={"max_queue": 8192}
    )
    serve.delete("default")  # else its two replicas are kept for ten minutes
    serve.run(app, route_prefix="/")
    assert len({_ask(URL, number).headers["optimum-runs"] for number in range(4)}) == 1
    answers: list[httpx.Response] = []
    grown = threading.Event()

    def ask(number: int) -> None:
        while not grown.is_set():
            answers.append(_ask(URL, number, 256))

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        end = time.monotonic() + 600
        while len({answer.headers.get("optimum-runs") for answer in tuple(answers)}) < 2 and time.monotonic() < end:
            time.sleep(1)
        grown.set()
        for one in asked:
            one.result()
    assert len({answer.headers["optimum-runs"] for answer in answers}) == 2
    assert {answer.status_code for answer in answers} == {200}
