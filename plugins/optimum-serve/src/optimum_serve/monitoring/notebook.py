"""The files of what a server has learned: traffic, and the baselines of drift."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from optimum_core.errors import OptionError
from optimum_serve.monitoring.drift import read_baselines, write_baselines
from optimum_serve.monitoring.traffic import TrafficFile, replaced
from optimum_serve.monitoring.watch import ModelWatch
from optimum_serve.settings import Settings

log = logging.getLogger(__name__)


class Notebook:
    """The files that are asked for by settings; without them, nothing is written.

    Attributes:
        baselines: by model and quantity, as they were found.

    Raises:
        OptionError: a file is there, and is something else.
    """

    def __init__(self, settings: Settings) -> None:
        self._traffic = TrafficFile(Path(settings.traffic_file).expanduser()) if settings.traffic_file else None
        self._drift = Path(settings.drift_file).expanduser() if settings.drift_file else None
        self.baselines = _baselines(self._drift)

    def write(self, watched: Mapping[str, ModelWatch]) -> None:
        """Write what is new of these models."""
        if self._traffic is not None:
            self._traffic.add({name: watch.traffic for name, watch in watched.items()})
        if self._drift is not None:
            self._write_baselines(self._drift, watched)

    def _write_baselines(self, file: Path, watched: Mapping[str, ModelWatch]) -> None:
        learned = {name: watch.drift.baseline() for name, watch in watched.items() if watch.drift is not None}
        whole = {**self.baselines, **{name: found for name, found in learned.items() if found}}
        if whole == self.baselines:
            return
        try:
            replaced(file, write_baselines(whole))
        except OSError as error:
            log.error("the baselines were not written: %s", error)
            return
        self.baselines = whole


def _baselines(file: Path | None) -> dict[str, dict[str, list[int]]]:
    if file is None or not file.exists():
        return {}
    try:
        return read_baselines(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        who = f"drift_file {file}"
        raise OptionError(who, f"it cannot be read: {error}", "name another file, or remove it") from error
