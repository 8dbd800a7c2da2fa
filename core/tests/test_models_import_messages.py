"""Messages that libraries log when they are imported are held back in the models room."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IMPORTING = """
from optimum_core.models import tasks
from transformers import BertModel
"""
_REMARKING = """
import logging
import optimum_core.models
logging.basicConfig(format="%(message)s")
logger = logging.getLogger("torchao")
logger.warning("Failed to load %s", "a.so")
logger.warning("something to know")
"""


def test_torchao_says_nothing_where_it_is_installed() -> None:
    """transformers imports it with every model class; its remarks are of extensions that this torch cannot load."""
    pytest.importorskip("torchao")
    done = subprocess.run([sys.executable, "-c", _IMPORTING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_remarks_of_the_same_loggers_pass() -> None:
    """In a process of its own: what other libraries do to loggers when they are imported stays."""
    done = subprocess.run([sys.executable, "-c", _REMARKING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "something to know\n")
