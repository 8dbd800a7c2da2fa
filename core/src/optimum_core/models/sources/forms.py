"""Forms of models other than a plain `torch.nn.Module`: unwrapped if that changes nothing, otherwise refused with a
remedy.

They are recognized by an object's classes, their packages, and the types of its parameters. None of the libraries named
here is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from optimum_core.errors import SourceError

#: Wrappers that compute the same as the model in them, and the attribute that holds it.
_WRAPPERS = {
    ("torch._dynamo", "OptimizedModule"): "_orig_mod",
    ("torch.nn", "DataParallel"): "module",
    ("torch.nn", "DistributedDataParallel"): "module",
}
_GIVE = "pass a PreTrainedModel, a torch.nn.Module, a directory of save_pretrained, a hub id, or an ONNX or GGUF file"
_BEFORE = "give the model as it was before it was quantized; accelerate(..., quantize='int8') quantizes"


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object, recognized by its class or an ancestor of that.

    Attributes:
        package: the prefix of the class's module.
        names: names of the class; empty: any class of the package.
        what: the description of the object.
        remedy: the object to pass instead.
    """

    package: str
    names: tuple[str, ...]
    what: str
    remedy: str

    def fits(self, cls: type) -> bool:
        """Whether `cls` or one of its ancestors is such a class."""
        return any(
            _is_of(base.__module__, self.package) and (not self.names or base.__name__ in self.names)
            for base in cls.__mro__
        )


_PARTS = "accelerate its parts one by one, such as pipe.transformer, pipe.unet or pipe.text_encoder"
_ITS_MODEL = "give the model that it was made from, or its ONNX file"

#: Objects that hold a model, belong to one, or were made from one; the first that fits is reported.
_OBJECTS = (
    ObjectKind("optimum_core", ("AcceleratedModel",), "is accelerated already", "use it as it is"),
    ObjectKind("transformers", ("Pipeline",), "is a pipeline", "pass pipe.model, and processor=pipe.tokenizer"),
    ObjectKind("transformers", ("Trainer",), "is a trainer", "pass trainer.model"),
    ObjectKind("diffusers", ("DiffusionPipeline",), "is a pipeline of several models", _PARTS),
    ObjectKind(
        "transformers",
        ("PreTrainedConfig", "PretrainedConfig"),
        "is a configuration, which has no weights",
        "pass a model: AutoModel….from_pretrained(…), or for random weights AutoModel….from_config(config)",
    ),
    ObjectKind(
        "transformers",
        ("PreTrainedTokenizerBase", "ProcessorMixin", "FeatureExtractionMixin", "BaseImageProcessor"),
        "prepares a model's inputs, and is none",
        "pass the model, and this as processor=",
    ),
    ObjectKind(
        "torch.export", ("ExportedProgram",), "is an exported program", "give the model that it was exported from"
    ),
    ObjectKind(
        "onnx", ("ModelProto",), "is an ONNX model in memory", "onnx.save(it, 'model.onnx'), and pass that path"
    ),
    ObjectKind("onnxruntime", (), "is a session, open already", _ITS_MODEL),
    ObjectKind("openvino", (), "was converted already", _ITS_MODEL),
    ObjectKind("optimum", (), "was exported already", _ITS_MODEL),
    ObjectKind("keras", (), "is a model of Keras", "give a model of PyTorch"),
    ObjectKind("tensorflow", (), "is a model of TensorFlow", "give a model of PyTorch"),
    ObjectKind("flax", (), "is a model of Flax", "give a model of PyTorch"),
)

#: Kinds of modules that are refused as a whole.
_MODULES = (
    _OBJECTS[0],
    ObjectKind(
        "torch.jit",
        ("ScriptModule",),
        "was traced or scripted by torch.jit",
        "give the model as it was before; a file of torch.jit alone cannot be accelerated",
    ),
    ObjectKind(
        "peft",
        ("PeftModel",),
        "holds its adapters apart from the model's weights",
        "pass model.merge_and_unload(); adapters that cannot be merged (prompts, prefixes) cannot be accelerated",
    ),
    ObjectKind(
        "sentence_transformers",
        ("SparseEncoder", "MultiVectorEncoder"),
        "gives no single vector of floats for a text",
        "pass model[0].auto_model with processor=model.tokenizer",
    ),
    ObjectKind(
        "torch.distributed",
        ("FullyShardedDataParallel", "FSDPModule"),
        "is sharded over several processes",
        "gather its weights, load them into a plain model, and pass that",
    ),
    ObjectKind("optimum", ("OptimizedModel",), "was exported already", _ITS_MODEL),
    ObjectKind("keras", (), "is a model of Keras", "give a model of PyTorch"),
)

_QUANTIZERS = {
    "aqlm": "AQLM",
    "auto_gptq": "GPTQ",
    "auto_round": "AutoRound",
    "autoround": "AutoRound",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed_tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_gpu": "FBGEMM",
    "gptqmodel": "GPTQModel",
    "hqq": "HQQ",
    "neural_compressor.torch.algorithms.weight_only": "Neural Compressor",
    "optimum.quanto": "Quanto",
    "quark": "Quark",
    "spqr_quant": "SpQR",
    "torch.ao.nn.intrinsic.quantized": "torch.ao.quantization",
    "torch.ao.nn.quantized": "torch.ao.quantization",
    "vptq": "VPTQ",
}
#: Quantizers recognized by the type of the weight alone, since their layers may be for quantization-aware training.
_OF_TENSORS = {**_QUANTIZERS, "torchao": "torchao"}
#: Layers of transformers itself that compute in fewer bits than the model's file says.
_INTEGRATED = (
    "transformers.integrations",
    ("FP8Linear", "BitLinear", "AutoBitLinear", "FbgemmFp8Linear", "HiggsLinear"),
)


def unwrapped(model: Any) -> Any:
    """Return the model itself, out of wrappers that compute the same (`torch.compile`, `DataParallel`)."""
    while inner := _inside(model):
        model = inner
    return model


def _inside(model: Any) -> Any:
    for base in type(model).__mro__:
        for (package, name), attribute in _WRAPPERS.items():
            if base.__name__ == name and _is_of(base.__module__, package):
                return getattr(model, attribute, None)
    return None


def is_module(model: Any) -> bool:
    """Whether an object is a `torch.nn.Module`, or behaves like one."""
    return (
        not isinstance(model, type)
        and callable(getattr(model, "state_dict", None))
        and callable(getattr(model, "forward", None))
        and callable(getattr(model, "named_modules", None))
    )


def refuse_object(model: Any) -> SourceError:
    """Return the error for an object that is no module: what it seems to be, and what to pass instead."""
    who = f"accelerate({type(model).__name__})"
    if isinstance(model, type):
        if any(base.__module__.startswith("torch.nn") for base in model.__mro__):
            remedy = f"pass an instance: {model.__name__}(…), or {model.__name__}.from_pretrained(…)"
            return SourceError(f"accelerate({model.__name__})", "that is a class, and no model yet", remedy)
        return SourceError(f"accelerate({model.__name__})", "that is a class, and none of a model", _GIVE)
    if (found := next((kind for kind in _OBJECTS if kind.fits(type(model))), None)) is not None:
        return SourceError(who, f"it {found.what}", found.remedy)
    if isinstance(model, Mapping) and model and all(hasattr(value, "dtype") for value in model.values()):
        remedy = "load it: model.load_state_dict(state_dict), and pass the model"
        return SourceError(who, "it is a state_dict: weights without the model that computes with them", remedy)
    if callable(model):
        return SourceError(who, "that is a function, whose weights cannot be found", "wrap it in a torch.nn.Module")
    return SourceError(who, "that is neither a model, nor a directory, nor a hub id", _GIVE)


def check_module(module: Any) -> None:
    """Refuse a form of module whose weights are not plain parameters of its classes, before they are read.

    Raises:
        SourceError: the module has such a form; the message names it and the remedy.
    """
    who = f"model {type(module).__name__}"
    for find in (_of_a_kind, _quantized, _with_adapters, _recompiled, _partly_training):
        if (found := find(module)) is not None:
            raise SourceError(who, *found)
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if (found := _tensor_problem(name, tensor)) is not None:
            raise SourceError(who, *found)


Problem = tuple[str, str]


def _partly_training(module: Any) -> Problem | None:
    """Find a part that computes as in training in a model that does not: Monte Carlo dropout, a part added later."""
    if getattr(module, "training", True):
        return None  # all of it is accelerated as in evaluation mode, and the report says so
    for name, part in module.named_modules():
        if getattr(part, "training", False) and _asks_whether_training(type(part)):
            why = f"its part {name!r} ({type(part).__name__}) is in training mode, while the model itself is not"
            return why, "call model.eval() for all parts; dropout that is wanted cannot be accelerated"
    return None


def _asks_whether_training(kind: type) -> bool:
    """Whether a class may compute otherwise in training: one of torch's own says so in its code, others may."""
    if not kind.__module__.startswith("torch."):
        return True
    own = (base for base in kind.__mro__ if base.__module__ != "torch.nn.modules.module")
    methods = (getattr(method, "__code__", None) for base in own for method in vars(base).values())
    return any("training" in code.co_names for code in methods if code is not None)


def _of_a_kind(module: Any) -> Problem | None:
    found = next((kind for kind in _MODULES if kind.fits(type(module))), None)
    return (f"it {found.what}", found.remedy) if found else None


def _quantized(module: Any) -> Problem | None:
    for name, part in module.named_modules():
        tool = _quantizer(type(part), _QUANTIZERS)
        if tool is not None and _keeps_no_floats(part):
            return f"it was quantized by {tool} (its layer {name or type(part).__name__!r})", _BEFORE
    return None


def _quantizer(cls: type, known: Mapping[str, str]) -> str | None:
    """Return the library that quantized a layer or tensor of this class, by its packages; None: none that is known."""
    package, names = _INTEGRATED
    for base in cls.__mro__:
        for prefix, tool in known.items():
            if _is_of(base.__module__, prefix):
                return tool
        if _is_of(base.__module__, package) and base.__name__ in names:
            return "transformers"
    return None


def _keeps_no_floats(part: Any) -> bool:
    """Whether a part's weight is not plain floats: quantization-aware training keeps floats, and is not quantized."""
    weight: Any = getattr(part, "weight", None)
    return type(weight).__name__ not in ("Tensor", "Parameter") or not weight.is_floating_point()


def _with_adapters(module: Any) -> Problem | None:
    if getattr(module, "_hf_peft_config_loaded", False) or _has(module, lambda cls: _is_of(cls.__module__, "peft")):
        why = "adapters of PEFT lie in it, which are kept apart from the model's weights"
        return why, "PeftModel.from_pretrained(base, adapter).merge_and_unload() gives a model without them; pass that"
    return None


def _has(module: Any, fits: Callable[[type], bool]) -> bool:
    return any(fits(type(part)) for part in module.modules())


def _recompiled(module: Any) -> Problem | None:
    """Return a problem if calls of a layer go to a function bound to the module itself, so that no copy is possible."""
    for name, part in module.named_modules():
        forward = vars(part).get("forward")
        if hasattr(forward, "_torchdynamo_orig_callable"):
            where = f"model.{name}" if name else "model"
            remedy = f"del {where}.forward, or compile a copy instead"
            if hasattr(part, "_orig_mod"):
                remedy = f"put the module that was compiled in its place: {where} = {where}._orig_mod"
            return f"forward of {name or 'the model'} was replaced by a compiled one", remedy
    return None


def _tensor_problem(name: str, tensor: Any) -> Problem | None:
    """Return the reason why a parameter or buffer does not hold the model's numbers, or None."""
    cls = type(tensor)
    if getattr(tensor, "is_meta", False):
        load = "load its weights: from_pretrained(…) without device_map, or model.to_empty() and load_state_dict()"
        return f"{name} is on the meta device: it has a shape and no values", load
    if cls.__name__.startswith("Uninitialized"):
        return f"{name} has no shape before the first call", "call the model once, then pass it"
    if (tool := _quantizer(cls, _OF_TENSORS)) is not None:
        return f"it was quantized by {tool} ({name} is a {cls.__name__})", _BEFORE
    if cls.__name__ == "DTensor":
        return f"it is sharded over several processes ({name} is a DTensor)", "gather its weights into a plain model"
    dtype = str(getattr(tensor, "dtype", ""))
    if "float8" in dtype or "float4" in dtype or "qint" in dtype or "quint" in dtype:
        return f"it was quantized ({name} is {dtype})", _BEFORE
    if cls.__name__ not in ("Tensor", "Parameter", "Buffer"):
        plain = "give the model with plain tensors as weights"
        return f"{name} is a {cls.__module__}.{cls.__name__}, whose arithmetic is its own", plain
    return None


def _is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
