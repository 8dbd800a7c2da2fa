"""Reading of adapters of PEFT and of the models that they are for; each tensor of the adapter is accounted for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from optimum_core.errors import SourceError, first_line
from optimum_core.models import pretrained
from optimum_core.models.tasks import resolve_class

#: PEFT's types of tasks, and transformers' classes for them.
_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def adapted_class(described: Mapping[str, Any], config: Any) -> Any:
    """Return the class that an adapter was trained in: by its task, or by its name; else that of the base."""
    import transformers

    named = (described.get("auto_mapping") or {}).get("base_model_class", "")
    name = _CLASSES.get(str(described.get("task_type")), named)
    return getattr(transformers, name, None) or resolve_class(config)


def with_classes(config: Any, cls: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Return a configuration with as many classes as the adapter's head has, where it brings one.

    The head is found by building the model without values for two numbers of classes.
    """
    few, many = (dict(_shapes(cls, config, count)) for count in (5, 7))
    heads = [name for name, shape in few.items() if shape != many.get(name) and name in shapes]
    counts = {shapes[name][0] for name in heads}
    if len(counts) == 1 and (count := counts.pop()) != config.num_labels:
        config = copy.deepcopy(config)
        config.num_labels = count
    return config


def _shapes(cls: Any, config: Any, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    import torch

    config = copy.deepcopy(config)
    config.num_labels = classes
    build = getattr(cls, "from_config", None) or cls._from_config
    with pretrained.quiet(), torch.device("meta"):
        model = build(config)
    for name, tensor in model.named_parameters():
        yield name, tuple(tensor.shape)


def read_base(
    cls: Any, directory: Path, name: str, config: Any, replaced: Sequence[str], *, trust_remote_code: bool
) -> Any:
    """Return the model that an adapter is for.

    Args:
        replaced: names of its parameters that the adapter brings, which the base may lack or have in another shape.

    Raises:
        SourceError: as `pretrained.read_model`.
    """
    return pretrained.read_class(
        cls,
        directory,
        name,
        trust_remote_code=trust_remote_code,
        may_lack=tuple(replaced) or None,
        config=config,
        ignore_mismatched_sizes=True,
    )


def read_tensors(file: Path, who: str) -> dict[str, Any]:
    """Return the weights in an adapter's file by name.

    Raises:
        SourceError: it is damaged.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        import torch

        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged files raise errors of many types
        why = f"{file.name} cannot be read: {type(error).__name__}: {first_line(error)}"
        raise SourceError(who, why, "fetch or save the adapter again") from error


def read_adapter(base: Any, directory: Path, who: str) -> Any:
    """Return the `PeftModel` of a base and the adapter in a directory.

    Raises:
        SourceError: it cannot be read, or does not fit the base.
    """
    try:
        with pretrained.quiet():
            peft = import_module("peft")
            return peft.PeftModel.from_pretrained(base, str(directory), torch_device="cpu")
    except Exception as error:  # PEFT raises errors of many types
        why = f"its adapter cannot be read: {type(error).__name__}: {error}"
        raise SourceError(who, why[:600], "give the base that it was trained on, or the merged model") from error


def unread(adapted: Any, tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors of the adapter's file that the model does not hold, and of those that it invented."""
    import torch

    with pretrained.quiet():
        held = import_module("peft").get_peft_model_state_dict(adapted, save_embedding_layers=False)
    rest = {name: tensor for name, tensor in tensors.items() if name not in held}
    values = dict(adapted.named_parameters())
    wrong = [name for name in held if name not in tensors]
    for name, tensor in tensors.items():
        kept = values.get(name) if name in rest else held[name]
        if kept is None or not torch.equal(kept.detach().float(), tensor.float()):
            wrong.append(name)
    return sorted(wrong)
