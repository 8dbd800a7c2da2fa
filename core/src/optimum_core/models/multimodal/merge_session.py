"""Part "merge" of a model of pictures or sound with text: its session, and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from optimum_core.errors import ArtifactError, SessionError
from optimum_core.generation.decoder_session import Decoder, RunPart
from optimum_core.models.decoders.language_module import LanguageCaller
from optimum_core.models.multimodal.merging import MergedCache, MergedDecoder, stripped
from optimum_core.models.multimodal.tower_calls import TowerCalls, record_of
from optimum_core.models.pretrained import quiet
from optimum_core.types import Artifact, TensorSpec
from optimum_core.types.state import VISIBLE

WEIGHTS = "merge.safetensors"


@dataclass(kw_only=True, slots=True)
class EagerMergeSession:
    """The original without the layers of its language model.

    Attributes:
        towers: its towers that are in a backend.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    original: Any
    device: str = "cpu"
    backend: str = field(default="torch", init=False)
    towers: list[TowerCalls] = field(default_factory=list)

    def call_tower(self, part: Artifact, run: RunPart) -> None:
        """Let a session of a backend run a tower, for the calls that it was compared for."""
        self.towers.append(TowerCalls(record=record_of(part.steps), inputs=part.inputs, run=run))

    def before(self, decoder: Decoder) -> MergedDecoder:
        """Return the decoder behind the merge."""
        names = [spec.name for spec in decoder.session.inputs]
        kinds = tuple(name.removeprefix(VISIBLE) for name in names if name.startswith(VISIBLE))
        if self.original is None:
            raise SessionError("backend 'torch'", "the session is closed", "load the model again")
        return MergedDecoder(decoder, self.original, kinds, self.towers)

    def host(self, decoder: MergedDecoder, who: str, config: Any, settings: Callable[[], Any], past: Any = None) -> Any:
        """Return the original with its decoder, for one call or generation, with the settings in force.

        Args:
            past: the cache that it goes on from; the original that filled it goes on.
        """
        goes_on = isinstance(past, MergedCache) and past.is_of(decoder)
        face = getattr(past, "face", None) if goes_on else None
        face = face or decoder.face(who)
        face.config, face.generation_config = config if config is not None else face.config, settings()
        return face

    def run(self, decoder: MergedDecoder, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a call of the whole."""
        made: dict[str, Any] = decoder.face().outputs(inputs)
        return {spec.name: made[spec.name] for spec in self.outputs}

    def close(self) -> None:
        """Release the model."""
        self.original = None


def language_caller(module: Any, inputs: Sequence[TensorSpec]) -> Any:
    """Return the eager language model as a decoder of embeddings, with these inputs."""
    return LanguageCaller(module, keeps_all=any(spec.name.startswith(VISIBLE) for spec in inputs)).eval()


def save_merge(module: Any, directory: Path) -> tuple[str, ...]:
    """Write the original without its language model; return the names of the files.

    Buffers are written too, also those that the original makes itself: `read_merge` runs no initialization.
    """
    from safetensors.torch import save_file

    made = stripped(module)
    config = made.config.to_dict() | {"architectures": [type(module).__name__]}
    type(made.config).from_dict(config).save_pretrained(directory)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in _tensors(made).items()}
    save_file(tensors, directory / WEIGHTS)
    return WEIGHTS, "config.json"


def written_merge(artifact: Artifact) -> Path | None:
    """Return the directory of the files that `save_merge` wrote; None: the artifact has none."""
    found = (artifact.path / name for name in artifact.files)
    return next((path.parent for path in found if path.name == WEIGHTS), None)


def read_merge(directory: Path) -> Any:
    """Return the original without its language model, from its files.

    Raises:
        ArtifactError: the files are not those of a class of this transformers.
    """
    import transformers
    from safetensors.torch import load_file

    config = transformers.AutoConfig.from_pretrained(directory)
    cls = getattr(transformers, (config.architectures or [""])[0], None)
    who = f"artifact {directory}"
    if cls is None:
        why = f"transformers {transformers.__version__} has no {config.architectures}"
        raise ArtifactError(who, why, "install the version that the artifact was made with")
    with quiet(), torch.device("meta"):
        made = stripped(cls(config).eval())
    tensors = load_file(directory / WEIGHTS)
    if missing := sorted(set(_tensors(made)) ^ set(tensors)):
        why = f"transformers {transformers.__version__} builds it with other weights: {', '.join(missing[:3])}"
        raise ArtifactError(who, why, "install the version that the artifact was made with")
    for name, tensor in tensors.items():
        _put(made, name, tensor)
    return made


def _tensors(module: Any) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _put(module: Any, name: str, tensor: torch.Tensor) -> None:
    owner, _, own = name.rpartition(".")
    parent = module.get_submodule(owner)
    if own in parent._parameters:
        parent._parameters[own] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        parent._buffers[own] = tensor
