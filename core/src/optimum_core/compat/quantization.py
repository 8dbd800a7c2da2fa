"""The quantizer of optimum-onnx: `accelerate(model, target="ort", quantize=…, calibration=…)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from optimum_core.compat.arguments import check, for_accelerate, named
from optimum_core.compat.opening import say_if_not_quantized
from optimum_core.compat.originals import original_of
from optimum_core.errors import OptionError, UnavailableError
from optimum_core.packages import present
from optimum_core.types import QuantizeConfig
from optimum_core.types.presets import preset

_TARGET = "ort"


@named()
@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """`QuantizeConfig`, as `quantize=` takes it.

    Attributes:
        config: ours.
        is_static: whether ranges of activations come from calibration.
        operators_to_quantize: nothing: the backend chooses them; `fit` takes it back.
    """

    config: QuantizeConfig
    is_static: bool
    operators_to_quantize: tuple[str, ...] = ()


class AutoQuantizationConfig:
    """`quantize="avx512_vnni"` and the like: a preset for the instruction set."""

    @staticmethod
    def arm64(is_static: bool, **further: Any) -> QuantizationConfig:
        """`quantize="arm64"`."""
        return _config("arm64", is_static, further)

    @staticmethod
    def avx2(is_static: bool, **further: Any) -> QuantizationConfig:
        """`quantize="avx2"`."""
        return _config("avx2", is_static, further)

    @staticmethod
    def avx512(is_static: bool, **further: Any) -> QuantizationConfig:
        """`quantize="avx512"`."""
        return _config("avx512", is_static, further)

    @staticmethod
    def avx512_vnni(is_static: bool, **further: Any) -> QuantizationConfig:
        """`quantize="avx512_vnni"`."""
        return _config("avx512_vnni", is_static, further)

    @staticmethod
    def ppc64le(is_static: bool, **further: Any) -> QuantizationConfig:
        """`quantize="ppc64le"`."""
        return _config("ppc64le", is_static, further)

    @staticmethod
    def tensorrt(is_static: bool = True, **further: Any) -> QuantizationConfig:
        """`quantize="tensorrt"`."""
        return _config("tensorrt", is_static, further)


#: Their arguments that are fields of ours.
_FIELDS = {"per_channel": "per_channel", "reduce_range": "reduce_range", "use_symmetric_weights": "symmetric"}


def _config(name: str, is_static: bool, further: dict[str, Any]) -> QuantizationConfig:
    config = preset(name, static=is_static)
    for key, value in further.items():
        if key == "nodes_to_exclude" and value:
            remedy = 'QuantizeConfig(exclude=("classifier",)) leaves out layers by their names in the module'
            raise OptionError("nodes_to_exclude", "names of nodes are those of one export", remedy)
        if key in _FIELDS:
            config = replace(config, **{_FIELDS[key]: value})
        elif value not in (None, False) and value != []:
            remedy = "leave it out; QuantizeConfig has the fields that are kept here"
            raise OptionError(f"AutoQuantizationConfig.{name}, {key}", f"{value!r} is not taken here", remedy)
    return QuantizationConfig(config=config, is_static=is_static)


@named()
@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """The fields `calibration` and `percentile` of `QuantizeConfig`."""

    method: str
    percentile: float | None = None


class AutoCalibrationConfig:
    """`QuantizeConfig(calibration="minmax")` and the like."""

    @staticmethod
    def minmax(dataset: Any = None, moving_average: bool = False, **further: Any) -> CalibrationConfig:
        """`calibration="minmax"`, or "moving-average"."""
        check("AutoCalibrationConfig.minmax", further)
        return CalibrationConfig(method="moving-average" if moving_average else "minmax")

    @staticmethod
    def entropy(dataset: Any = None, **further: Any) -> CalibrationConfig:
        """`calibration="entropy"`."""
        check("AutoCalibrationConfig.entropy", further)
        return CalibrationConfig(method="entropy")

    @staticmethod
    def percentiles(dataset: Any = None, *, percentile: float = 99.999, **further: Any) -> CalibrationConfig:
        """`calibration="percentile"`."""
        check("AutoCalibrationConfig.percentiles", further)
        return CalibrationConfig(method="percentile", percentile=percentile)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of `fit`: the rows and the method from which `quantize` finds the ranges."""

    rows: Iterable[Any]
    config: CalibrationConfig


def _check_fit(method: str, operators: Sequence[str] | None, further: dict[str, Any]) -> None:
    """Refuse arguments of `fit` that have no meaning here.

    Raises:
        OptionError: operators are named, or another argument would change something.
    """
    if operators:
        why, remedy = "the backend chooses them", "leave it out, or pass that of the configuration"
        raise OptionError(f"ORTQuantizer.{method}, operators_to_quantize", why, remedy)
    check(f"ORTQuantizer.{method}", further)


class ORTQuantizer:
    """`accelerate(model, target="ort", quantize=…, calibration=…)`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parts: list[Iterable[Any]] = []
        self._calibration: CalibrationConfig | None = None

    @classmethod
    def from_pretrained(cls, model_or_path: Any, file_name: str | None = None) -> Self:
        """Take a model of ours, a checkpoint, or a directory with an ONNX file.

        Raises:
            OptionError: what a model was made from is not known.
        """
        return cls(original_of(cls.__name__, model_or_path, file_name))

    def get_calibration_dataset(
        self,
        dataset_name: str,
        num_samples: int = 100,
        dataset_config_name: str | None = None,
        dataset_split: str | None = "train",
        preprocess_function: Callable[..., Any] | None = None,
        preprocess_batch: bool = True,
        seed: int = 2016,
    ) -> Any:
        """Return rows of a `datasets.Dataset`, as `calibration=` takes them.

        Raises:
            UnavailableError: `datasets` is not installed.
        """
        if not present("datasets"):
            why = "datasets is not installed, which fetches them"
            raise UnavailableError("get_calibration_dataset", why, "pip install datasets, or pass rows of your own")
        from datasets import load_dataset

        rows = load_dataset(dataset_name, dataset_config_name, split=dataset_split)
        rows = rows.shuffle(seed=seed).select(range(min(num_samples, len(rows))))
        return rows if preprocess_function is None else rows.map(preprocess_function, batched=preprocess_batch)

    def fit(
        self,
        dataset: Iterable[Any],
        calibration_config: CalibrationConfig,
        operators_to_quantize: Sequence[str] | None = None,
        **further: Any,
    ) -> Calibration:
        """Keep the rows for `quantize`: `calibration=dataset`.

        Args:
            further: other arguments of theirs: refused, or warned of where they change nothing.

        Raises:
            OptionError: operators are named, which the backend chooses here.
        """
        _check_fit("fit", operators_to_quantize, further)
        return Calibration(rows=dataset, config=calibration_config)

    def partial_fit(
        self,
        dataset: Iterable[Any],
        calibration_config: CalibrationConfig,
        operators_to_quantize: Sequence[str] | None = None,
        **further: Any,
    ) -> None:
        """Keep further rows, which `compute_ranges` returns together.

        Args:
            further: as of `fit`.

        Raises:
            OptionError: as `fit`.
        """
        _check_fit("partial_fit", operators_to_quantize, further)
        self._parts.append(dataset)
        self._calibration = calibration_config

    def compute_ranges(self) -> Calibration:
        """Return the rows of all calls of `partial_fit`, for `quantize`.

        Raises:
            OptionError: there was none.
        """
        if self._calibration is None:
            raise OptionError("ORTQuantizer.compute_ranges", "no rows were given", "call partial_fit first")
        return Calibration(rows=[*chain.from_iterable(self._parts)], config=self._calibration)

    def quantize(
        self,
        quantization_config: QuantizationConfig,
        save_dir: str | os.PathLike[str],
        calibration_tensors_range: Calibration | None = None,
        **options: Any,
    ) -> Path:
        """Quantize, write an artifact, and return its directory: `accelerate(…).save_pretrained(save_dir)`.

        Args:
            options: further arguments of `accelerate`, or of theirs, which are refused or warned of.

        Raises:
            OptionError: static quantization lacks `calibration_tensors_range`.
            OptimumError: as `accelerate`.
        """
        from optimum_core import accelerate

        own = for_accelerate("ORTQuantizer.quantize", options)
        config, rows = quantization_config.config, None
        if quantization_config.is_static:
            if not isinstance(calibration_tensors_range, Calibration):
                why, remedy = "static quantization needs it", "pass what fit(…) returns"
                raise OptionError("ORTQuantizer.quantize, calibration_tensors_range", why, remedy)
            how, rows = calibration_tensors_range.config, calibration_tensors_range.rows
            config = replace(config, calibration=how.method, percentile=how.percentile)
        fast = accelerate(self._model, target=_TARGET, quantize=config, calibration=rows, **own)
        say_if_not_quantized("ORTQuantizer.quantize", fast)
        fast.save_pretrained(save_dir)
        return Path(save_dir)
