"""ONNX Runtime's reports of its use, which are switched off before its first import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_RUN = """
import os
from optimum_ort import plugin, runtime
import onnxruntime
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    env = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", _RUN], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
