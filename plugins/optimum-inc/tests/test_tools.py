"""Neural Compressor leaves nothing behind where the process runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import tempfile
from pathlib import Path
from optimum_inc.silencing import quiet
with quiet():
    from neural_compressor.torch.algorithms.weight_only.gptq import GPTQ
print(*(path.name for path in Path(tempfile.gettempdir()).iterdir()))
"""


def test_no_workspace_is_left(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    environment = {"PATH": "", "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}

    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=here, env=environment, capture_output=True, text=True, timeout=500
    )

    assert done.returncode == 0, done.stderr
    assert "optimum-inc-" in done.stdout, "the layer solvers asked for a workspace"
    assert list(here.iterdir()) == []
    assert [path.name for path in temporary.iterdir() if path.name.startswith("optimum-inc-")] == []
