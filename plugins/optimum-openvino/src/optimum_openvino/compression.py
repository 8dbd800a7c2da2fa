"""Weight compression: 8 bits, or 4 in groups of a channel, each with a scale of its own."""

from __future__ import annotations

from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types import QuantizeConfig
from optimum_openvino.integer import Feed

FOUR_BITS = ("int4", "uint4", "nf4")
#: Weights that share a scale by default. A layer whose channels it does not divide gets a smaller power of two,
#: at least `LEAST_GROUP`, and 8 bits where none divides them.
GROUP_SIZE = 128
LEAST_GROUP = 16

_ALGORITHMS = {"awq": "awq", "gptq": "gptq", "scale-estimation": "scale_estimation"}
_NO_AWQ = "No matching patterns were found for applying AWQ"
#: The largest number of batches that these algorithms use.
MOST_BATCHES = 128


def is_symmetric(config: QuantizeConfig) -> bool:
    """Whether zero is the integer 0: by default, for the signed formats."""
    return not config.is_unsigned if config.symmetric is None else config.symmetric


def compress(
    nncf: Any, model: Any, config: QuantizeConfig, kept: list[str], feed: Feed | None, remarks: list[str], who: str
) -> Any:
    """Return the `openvino.Model` with its weights compressed as `config` asks. Embeddings and the last layer keep 8
    bits where the others get 4: they lose most by it.

    Raises:
        OptionError: the group size does not divide a layer's channels, or the algorithm finds nothing to do.
    """
    options = _four_bits(nncf, config) if config.weights in FOUR_BITS else {}
    if feed is not None:
        options |= {
            "dataset": nncf.Dataset(feed),
            "subset_size": min(feed.count(), MOST_BATCHES),
            _ALGORITHMS[str(config.algorithm)]: True,
        }
    try:
        compressed = nncf.compress_weights(
            model, mode=_mode(nncf, config), ignored_scope=nncf.IgnoredScope(names=kept, validate=False), **options
        )
    except nncf.InvalidGroupSizeError as error:
        first = str(error).partition("Failed nodes:")[2].strip().split("\n")[0]
        why = f"field 'group_size' cannot be {config.group_size}: it does not divide the channels of {first}"
        raise OptionError(who, why, "use a divisor, -1 for whole channels, or leave it out") from error
    if any(line.startswith(_NO_AWQ) for line in remarks):
        why = "field 'algorithm' cannot be 'awq' here: it finds no layers in this model that it could apply to"
        raise OptionError(who, why, "use 'scale-estimation' or 'gptq'")
    return compressed


def _mode(nncf: Any, config: QuantizeConfig) -> Any:
    modes = nncf.CompressWeightsMode
    if config.weights == "nf4":
        return modes.NF4
    kind = "INT4" if config.weights in FOUR_BITS else "INT8"
    return getattr(modes, f"{kind}_{'SYM' if is_symmetric(config) else 'ASYM'}")


def _four_bits(nncf: Any, config: QuantizeConfig) -> dict[str, Any]:
    fallback = nncf.GroupSizeFallbackMode
    left_open = config.group_size is None
    advanced = nncf.AdvancedCompressionParameters(
        group_size_fallback_mode=fallback.ADJUST if left_open else fallback.ERROR, min_adjusted_group_size=LEAST_GROUP
    )
    return {
        "group_size": GROUP_SIZE if left_open else config.group_size,
        "ratio": config.ratio or 1.0,
        "advanced_parameters": advanced,
    }
