"""Shapes of a model's calls and requests, counted without their contents, and the file that they are added to."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from filelock import FileLock

from optimum_core.errors import OptimumError, OptionError
from optimum_core.types import ModelTraffic, Traffic
from optimum_core.types.traffic import ShapeKey, counted, rounded

log = logging.getLogger(__name__)


class TrafficRecorder:
    """Counts of one model's calls and requests by shape. Thread-safe.

    Args:
        fingerprint: of the model.
    """

    def __init__(self, name: str, fingerprint: str) -> None:
        self._name, self._fingerprint = name, fingerprint
        self._lock = threading.Lock()
        self._calls: Counter[ShapeKey] = Counter()
        self._requests: Counter[ShapeKey] = Counter()

    def call(self, lengths: Mapping[str, int]) -> None:
        """Take note of a call of the model."""
        self._count(self._calls, lengths)

    def request(self, lengths: Mapping[str, int]) -> None:
        """Take note of a client's request."""
        self._count(self._requests, lengths)

    def _count(self, counts: Counter[ShapeKey], lengths: Mapping[str, int]) -> None:
        shape = tuple((axis, rounded(length)) for axis, length in sorted(lengths.items()))
        with self._lock:
            counts[shape] += 1

    @property
    def number(self) -> int:
        """The number of calls."""
        with self._lock:
            return self._calls.total()

    def since(self, earlier: ModelTraffic | None = None) -> ModelTraffic:
        """Return all that was counted, less what had been counted earlier."""
        with self._lock:
            calls, requests = self._calls.copy(), self._requests.copy()
        for counts, before in ((calls, earlier and earlier.calls), (requests, earlier and earlier.requests)):
            for one in before or ():
                counts[tuple(sorted(one.lengths.items()))] -= one.count
        return ModelTraffic(
            name=self._name, fingerprint=self._fingerprint, calls=counted(+calls), requests=counted(+requests)
        )


class TrafficFile:
    """A file that several servers may add to.

    Raises:
        OptionError: there is a file, and it is no record of traffic.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, ModelTraffic] = {}
        self._read()

    def add(self, recorders: Mapping[str, TrafficRecorder]) -> None:
        """Add what was counted since the last time. If that fails, it is logged, and tried again at the next time."""
        whole = {name: recorder.since() for name, recorder in recorders.items()}
        new = {name: recorder.since(self._written.get(name)) for name, recorder in recorders.items()}
        fresh = [one for one in new.values() if one.calls or one.requests]
        if not fresh:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                replaced(self._path, (self._read() + Traffic(models=tuple(fresh))).to_json())
        except (OSError, OptimumError) as error:
            log.error("the traffic was not written: %s", error)
            return
        self._written = whole

    def _read(self) -> Traffic:
        if not self._path.exists():
            return Traffic()
        try:
            return Traffic.from_json(self._path.read_bytes(), f"traffic_file {self._path}")
        except OSError as error:
            why = f"it cannot be read: {error.strerror}"
            raise OptionError(f"traffic_file {self._path}", why, "name another file") from error


def replaced(path: Path, text: str) -> None:
    """Write a file aside, and move it into place.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).replace(path)
