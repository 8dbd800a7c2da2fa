"""Ray Serve: replicas on machines of two kinds, and one that is killed under load.

Ray is 240 MB and has an environment of its own; see docs/scaling.md for how to run this.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1200)]
ENVIRONMENT = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
URL = "http://127.0.0.1:8123"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two raylets, of which the second has no OpenVINO."""
    from ray import serve
    from ray.cluster_utils import Cluster

    kept = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    made = Cluster()
    try:
        made.add_node(num_cpus=2, include_dashboard=False)
        made.add_node(num_cpus=2, env_vars={"OPTIMUM_DISABLED_BACKENDS": "openvino"})
        ray.init(address=made.address, log_to_driver=True)
        serve.start(http_options={"host": "127.0.0.1", "location": "HeadOnly", "port": 8123})
        yield made
        serve.shutdown()
    finally:
        ray.shutdown()
        made.shutdown()
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def served(cluster: Any, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from ray import serve

    from optimum_serve.ray import deployment

    app = deployment(
        f"classifier={artifacts / 'sources' / 'classifier'}",
        store=str(tmp_path_factory.mktemp("store")),
        replicas=(2, 2),
        target="auto",
    )
    start = time.monotonic()
    serve.run(app, route_prefix="/")
    print(f"two replicas after {time.monotonic() - start:.1f} s")
    return URL


def _ask(number: int) -> tuple[int, str, str]:
    answer = httpx.post(f"{URL}/predict", json={"inputs": f"w{4 + number % 50} w9"}, timeout=120)
    return answer.status_code, answer.headers.get("optimum-runs", ""), answer.text


def _replicas() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if "ServeReplica:default:replica" in "".join(_line(process))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_each_machine_has_what_suits_it_and_a_killed_replica_loses_nothing(served: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(_ask, range(100)))
    assert {status for status, _, _ in first} == {200}
    runs = Counter(text for _, text, _ in first)
    print(dict(runs))
    assert len(runs) == 2 and sum("openvino" not in text for text in runs) >= 1
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(_ask, number) for number in range(400)]
        while sum(one.done() for one in asked) < 50:
            time.sleep(0.01)
        os.kill(_replicas()[0].pid, signal.SIGKILL)
        found = [one.result() for one in asked]
    assert Counter(status for status, _, _ in found) == {200: 400}
    for number in range(50):
        assert found[number][2].split('"label"')[1:] and found[number][0] == 200
    end = time.monotonic() + 300
    while len({_ask(number)[1] for number in range(20)}) < 2:  # another replica takes its place, from the store
        assert time.monotonic() < end
        time.sleep(1)
