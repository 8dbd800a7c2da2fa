"""Parsing of the `quantize=` argument into a `QuantizationGoal`: the schemes to try and their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.models import pretrained
from optimum_core.models.sources.files import may_be_repository
from optimum_core.types import QuantizeConfig
from optimum_core.types.presets import PRESETS, preset
from optimum_core.types.quantization import SCHEMES, Scheme

#: Number formats that can be passed by name alone; the search finds the machine's best scheme with them.
FAMILIES = ("int8", "int4", "nf4", "fp8", "fp16")
#: Those that compete under "auto", and the model as it is.
_AUTO = ("int8", "int4")
_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationGoal:
    """The quantization asked for, as far as it was specified.

    Attributes:
        schemes: candidates, usually the fastest first.
        config: the configuration to use, except where it leaves fields open; None: the best of `schemes`.
    """

    schemes: tuple[Scheme, ...]
    config: QuantizeConfig | None = None

    @property
    def weights(self) -> str:
        """The number format that was asked for."""
        return self.schemes[0].weights

    def question(self) -> dict[str, Any]:
        """Return the parts that determine the result, as JSON values."""
        return {
            "schemes": [str(scheme) for scheme in self.schemes],
            "config": self.config.to_dict() if self.config else None,
        }


def read_goal(value: Any, *, calibrated: bool) -> QuantizationGoal | None:
    """Parse the value passed as `quantize`.

    Args:
        value: a number format ("int8"), "auto" for the fastest of int8 and int4, a scheme ("static-int8"), a preset
            ("avx512_vnni"), a recipe's file (local, or "owner/name/file.yaml" in a hub repository), a mapping, or a
            `QuantizeConfig`; None: no quantization.
        calibrated: there is calibration data, on which the meaning of a preset depends.

    Raises:
        OptionError: it is none of these, or the recipe is invalid.
        SourceError: the recipe cannot be downloaded from the hub.
    """
    if value is None:
        return None
    if isinstance(value, QuantizeConfig):
        return QuantizationGoal(schemes=(Scheme.parse(value.name),), config=value)
    if isinstance(value, Mapping):
        return read_goal(QuantizeConfig.from_dict(value), calibrated=calibrated)
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(_FILES)):
        return read_goal(_read_recipe(value), calibrated=calibrated)
    if value == "auto":
        return QuantizationGoal(schemes=tuple(Scheme(method, name) for method in SCHEMES for name in _AUTO))
    if value in FAMILIES:
        return QuantizationGoal(schemes=tuple(Scheme(method, value) for method in SCHEMES))
    if value in PRESETS:
        return read_goal(preset(value, static=calibrated), calibrated=calibrated)
    try:
        return read_goal(QuantizeConfig.named(str(value)), calibrated=calibrated)
    except OptionError as error:
        raise OptionError(
            "quantize",
            f"{value!r} is unknown",
            f"pass auto, {', '.join(FAMILIES)}; a scheme such as 'static-int8'; a preset ({', '.join(PRESETS)}); "
            "a recipe's .yaml file; or a QuantizeConfig",
        ) from error


def _read_recipe(file: str | Path) -> QuantizeConfig:
    """Read a recipe from a local file or from a hub repository.

    Raises:
        OptionError: there is no such file, it is no YAML mapping, or its keys or values are not allowed.
    """
    path = Path(file).expanduser()
    who = f"quantize, recipe {str(file)!r}"
    if not path.is_file():
        owner, _, name = str(file).rpartition("/")
        if not may_be_repository(owner):
            raise OptionError(
                who, "no such file", "check the path, or name one in a hub repository: owner/name/file.yaml"
            )
        path = pretrained.download_file(owner, name)
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(who, f"it is no YAML: {error}", "write keys and values, such as 'scheme: static'") from error
    if not isinstance(values, dict):
        raise OptionError(who, "it holds no keys and values", "write them a line each, such as 'scheme: static'")
    try:
        return QuantizeConfig.from_dict(values)
    except OptionError as error:
        raise OptionError(who, f"{error.who}: {error.why}", error.remedy) from error
