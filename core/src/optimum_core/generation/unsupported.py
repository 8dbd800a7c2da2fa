"""Settings of transformers' `generate` that the loop without torch does not have, and what turns each of them off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.errors import OptionError

#: Settings that change the tokens, with the values that leave them off; None does so for all.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "constraints": ([],),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "sequence_bias": ([], {}),
    "stop_strings": ([], ""),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}
#: Those of them that shape the probabilities of draws alone.
_DRAWING = frozenset({"epsilon_cutoff", "eta_cutoff", "top_h", "typical_p"})
#: Settings that change no token of the loop: they belong to beams, say how to compute, or normalize at the end.
INERT = frozenset(
    {"diversity_penalty", "early_stopping", "length_penalty", "renormalize_logits"}
    | {"cache_config", "cache_implementation", "max_cache_len", "use_cache"}
    | {"compile_config", "continuous_batching_config", "disable_compile", "low_memory", "prefill_chunk_size"}
    | {"assistant_confidence_threshold", "assistant_ensemble_weight", "assistant_lookbehind", "is_assistant"}
    | {"max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "prompt_lookup_num_tokens"}
    | {"speculation_type", "target_lookbehind", "use_mtp"}
)
#: Settings of what is returned beside the tokens: those of the model are left out, and a call cannot state them.
RESULT = frozenset(
    {"output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"}
)


def check_unsupported(of_model: Mapping[str, Any], given: Mapping[str, Any], *, draws: bool) -> None:
    """Refuse a setting that would change the tokens and that the loop does not have.

    Args:
        of_model: the settings of `generation_config.json`.
        given: those of the call, which go before.
        draws: whether tokens are drawn.

    Raises:
        OptionError: a setting has a value that does not leave it off.
    """
    for name, neutral in NEUTRAL.items():
        value = given.get(name) if name in given else of_model.get(name)
        if value is None or value in neutral or (name in _DRAWING and not draws):
            continue
        whose = "" if name in given else " in the model's generation_config.json"
        why = f"{name}={value!r}{whose} is not available without torch, and the tokens would differ"
        off = neutral[0] if neutral else None
        raise OptionError("generate", why, f"pass {name}={off!r} to go without it, or torch tensors to go by it")
