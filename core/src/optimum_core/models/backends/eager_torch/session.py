"""The eager model's session and its saved form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from optimum_core.errors import ExportError, OptionError, SessionError
from optimum_core.models.backends.eager_torch.plugin import COMPILE
from optimum_core.models.decoders.eager_state import EagerDecoderSession
from optimum_core.models.decoders.encoder_decoder_module import EncoderModule, behind_encoder
from optimum_core.models.eager.calls import call
from optimum_core.models.eager.outputs import as_array, flatten
from optimum_core.models.multimodal.merge_session import (
    EagerMergeSession,
    language_caller,
    read_merge,
    save_merge,
    written_merge,
)
from optimum_core.models.multimodal.merging import stripped
from optimum_core.models.pretrained import quiet
from optimum_core.models.sources.source import open_directory
from optimum_core.options import no_options
from optimum_core.types import Array, Artifact, ExportRequest, SessionRequest, Step, TensorSpec
from optimum_core.types.state import EMBEDS, ENCODER, MERGE


@dataclass(kw_only=True, slots=True)
class EagerSession:
    """A session on a module, with the specs of its inputs and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    module: Any
    precision: str = "fp32"
    device: str = "cpu"
    backend: str = field(default="torch", init=False)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Run the model on arrays; return numpy arrays by output name."""
        if self.module is None:
            raise SessionError("backend 'torch'", "the session is closed", "load the model again")
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                flat = flatten(call(self.module, inputs))
        except Exception as error:  # models raise errors of any type
            expected = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in self.inputs)
            why = f"the run failed: {type(error).__name__}: {error}"
            raise SessionError(
                "backend 'torch'", why, f"check the inputs' values, types and shapes ({expected})"
            ) from error
        return {spec.name: _as_declared(flat[spec.name], spec) for spec in self.outputs}

    def close(self) -> None:
        """Release the model."""
        self.module = None


def open_eager(request: SessionRequest) -> EagerSession | EagerDecoderSession | EagerMergeSession:
    """Open a session on the eager model, or on the checkpoint in the artifact."""
    artifact = request.artifact
    if (written := written_merge(artifact)) is not None:
        return EagerMergeSession(inputs=artifact.inputs, outputs=artifact.outputs, original=read_merge(written))
    source = request.source or open_directory(artifact.path, name=artifact.path.name)
    if request.level not in (None, COMPILE):
        raise OptionError("backend 'torch'", f"it has no level {request.level!r}", f"pass {COMPILE!r}, or none")
    no_options("backend 'torch'", request.options)
    module = source.module()
    if request.part == MERGE:
        return EagerMergeSession(inputs=artifact.inputs, outputs=artifact.outputs, original=stripped(module))
    module = EncoderModule(module).eval() if request.part == ENCODER else module
    module = language_caller(module, artifact.inputs) if artifact.inputs[0].name == EMBEDS else module
    module = behind_encoder(module) if artifact.state is not None else module
    module = torch.compile(module, dynamic=True) if request.level == COMPILE else module
    if artifact.state is not None:
        return EagerDecoderSession(
            inputs=artifact.inputs, outputs=artifact.outputs, state=artifact.state, module=module,
            precision=request.precision,
        )  # fmt: skip
    return EagerSession(inputs=artifact.inputs, outputs=artifact.outputs, module=module, precision=request.precision)


def _as_declared(tensor: torch.Tensor, spec: TensorSpec) -> Any:
    """Return an array with the dtype of the spec: autocast leaves some outputs in bf16."""
    declared = getattr(torch, spec.dtype)
    return as_array(tensor.to(declared))


def save_eager(request: ExportRequest) -> Artifact:
    """Write the checkpoint.

    Raises:
        ExportError: a plain module has no class that could be found again without running code from a file.
    """
    module = request.source.module()
    if request.part == MERGE:
        return _saved(request, save_merge(module, request.output))
    if not hasattr(module, "save_pretrained"):
        raise ExportError(
            f"backend 'torch', model {request.source.name!r}",
            "a torch.nn.Module of no library cannot be written so that it loads without its code",
            "save its state_dict yourself, or accelerate to a format that holds the graph (target='ort')",
        )
    with quiet():
        module.save_pretrained(request.output)
    files = sorted(path.relative_to(request.output).as_posix() for path in request.output.rglob("*") if path.is_file())
    weights = [name for name in files if name.endswith(".safetensors")]
    return _saved(request, (*weights, *(name for name in files if name not in weights)))


def _saved(request: ExportRequest, files: tuple[str, ...]) -> Artifact:
    step = Step(hook="export", backend="torch", tool="transformers", version=_version(), options={})
    return Artifact(
        format="torch",
        path=request.output,
        files=files,
        inputs=request.inputs,
        outputs=request.outputs,
        steps=(step,),
    )


def _version() -> str:
    import transformers

    return str(transformers.__version__)
