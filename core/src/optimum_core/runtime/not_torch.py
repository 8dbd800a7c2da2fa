"""Errors for uses of an accelerated model as a torch module, such as `.to()` and `next(model.parameters())`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from optimum_core.errors import NotTorchError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.plugins import PluginManager
from optimum_core.types.support import device_type

_PRECISIONS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

#: Attributes of a `torch.nn.Module` that concern its weights, submodules and training.
_WEIGHTS = (
    "parameters named_parameters buffers named_buffers state_dict load_state_dict modules named_modules children "
    "named_children get_parameter get_submodule get_buffer register_buffer register_parameter register_module "
    "add_module register_forward_hook register_forward_pre_hook register_full_backward_hook apply zero_grad "
    "share_memory compile num_parameters get_input_embeddings set_input_embeddings "
    "resize_token_embeddings base_model gradient_checkpointing_enable"
)
_TORCH_NAMES = frozenset(_WEIGHTS.split())
_ONE_PROCESS = "leave it out: encode uses all cores of this process; over machines, open load(directory) in each"
_BATCHES = (
    "pass all texts to one generate, or see fast.continuous_batching(), where the backend has it; "
    "transformers' own writes into caches of torch"
)
_PART = (
    "accelerate that part as a model of its own, such as transformers' CLIPTextModelWithProjection or "
    "CLIPVisionModelWithProjection; a call of this one gives both parts' vectors"
)
#: Methods of models of other packages, with what takes their place.
_ELSEWHERE = {
    "start_multi_process_pool": _ONE_PROCESS,
    "stop_multi_process_pool": _ONE_PROCESS,
    "encode_multi_process": "call encode(texts), which uses all cores of this process",
    "get_text_features": _PART,
    "get_image_features": _PART,
    "get_audio_features": _PART,
    "generate_batch": _BATCHES,
    "init_continuous_batching": _BATCHES,
    "continuous_batching_context_manager": _BATCHES,
    "get_max_seq_length": "ask fast.max_seq_length",
    "tokenizer": "AutoTokenizer.from_pretrained(directory) reads it; fast.tokenize(texts) gives the inputs of texts",
    "truncate_sentence_embeddings": "call encode(texts, truncate_dim=…)",
    "save": "call save_pretrained(directory)",
    "compile": "it is compiled already; load(directory) opens it compiled",
    "providers": "ask fast.backend and fast.device; those of optimum_core.compat have it",
    "model_save_dir": "ask fast.directory",
    "reshape": 'state the lengths before: accelerate(model, shapes=[{"batch": 1, "sequence": 128}])',
}


def refuse_move(who: str, wanted: Any, *, place: str, dtype: str, plugins: PluginManager) -> NoReturn:
    """Raise the error for a move to a device or dtype that the model does not have.

    Raises:
        UnavailableError: always; the remedy names what is possible on this machine.
    """
    text = str(wanted).removeprefix("torch.")
    if precision := _PRECISIONS.get(text):
        remedy = f"to compute in it, accelerate(model, precision={precision!r}); inputs and outputs stay {dtype}"
    elif text.startswith(("float", "int", "complex", "uint", "bool")):
        remedy = f"convert its outputs, which are {dtype}; precision='auto' lets it compute in fewer bits"
    else:
        remedy = _targets(text, plugins)
    raise UnavailableError(who, f"it runs on {place} in {dtype}, not {text}", remedy)


def _targets(device: str, plugins: PluginManager) -> str:
    kind = device_type(device)
    found = [
        f"accelerate(model, target='{name}:{device.lower()}')"
        for name, support in sorted(plugins.supports(detect()).items())
        if any(device_type(offer.device) == kind and offer.proof == "device" for offer in support.offers)
    ]
    if found:
        return " or ".join(found)
    return (
        f"no backend here runs on {device!r}; accelerate(model) finds what is fastest here, `optimum-core doctor` why"
    )


def explained(who: str, name: str, known: Iterable[str]) -> AttributeError:
    """Return the error for a missing attribute: one of `torch.nn.Module`, one that has another name here, or perhaps a
    misspelt one of `known`."""
    if name in _TORCH_NAMES or name in _ELSEWHERE:
        why = ": it is no torch.nn.Module, its weights lie in the runtime" if name in _TORCH_NAMES else ""
        return NotTorchError(
            who,
            f"it has no {name!r}{why}",
            _ELSEWHERE.get(name)
            or "ask fast.device, fast.dtype or fast.config; for weights and submodules, the eager model",
        )
    import difflib

    near = difflib.get_close_matches(name, [other for other in known if not other.startswith("_")], n=1)
    return AttributeError(f"{who} has no attribute {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
