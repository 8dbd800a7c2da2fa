"""The model that `accelerate` and `load` return, which behaves like the one it was made from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from optimum_core import artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.structure import from_names
from optimum_core.errors import InputError, SourceError, UnavailableError
from optimum_core.plugins import PluginManager
from optimum_core.runtime.absent_device import ForeignSession
from optimum_core.runtime.answers import Answer, Answerer
from optimum_core.runtime.inputs import InputChecker
from optimum_core.runtime.mapping import Mapper, as_items, progress_bar
from optimum_core.runtime.not_torch import explained, refuse_move
from optimum_core.runtime.pickling import Opening, reduced, reopened
from optimum_core.types import Report, Session
from optimum_core.types.rendering import model_to_html


class AcceleratedModel:
    """A model in its fastest correct form.

    Call it like the original: the same names, torch in and torch out, numpy in and numpy out, the original's output
    class. Thread-safe.

    Attributes:
        manifest: its description: origin, verification, measurements.
        directory: the directory of its files.
    """

    def __init__(
        self,
        manifest: Manifest,
        directory: Path,
        session: Session,
        *,
        plugins: PluginManager,
        source: Any = None,
        opening: Opening | None = None,
    ) -> None:
        self.manifest = manifest
        self.directory = directory
        self._session = session
        self._source = source
        self._run = session.run if isinstance(session, ForeignSession) else plugins.binder(session)
        self._plugins = plugins
        self._opening = opening or Opening()
        self._who = f"model {manifest.model.name!r}"
        self._checker = InputChecker(
            self._who,
            manifest.inputs,
            axes=manifest.axes,
            positional=manifest.model.positional,
            ignored=manifest.ignored_inputs,
            on_host=session.device.startswith("cpu"),
        )
        names = tuple(spec.name for spec in manifest.outputs)
        structure = manifest.model.structure or from_names(manifest.model.output_class, names)
        self._answerer = Answerer(structure, names, live=source is not None)
        self._returns_tuple = manifest.model.returns_tuple

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            args: inputs in the order of the original's `forward`.
            kwargs: inputs by name; `return_dict=False` gives a tuple, and True gives none where the configuration asks
                for one.

        Raises:
            InputError: an input is missing, unknown or does not fit.
            SessionError: the runtime failed.

        Warns:
            UnprovedLengthWarning: an input is longer or shorter than those compared with the original.
        """
        if args:
            kwargs = self._checker.named(args, kwargs)
        arrays, torch_in = self._checker.bind((), kwargs)
        wanted = kwargs.get("return_dict")
        as_tuple = self._returns_tuple if wanted is None else not wanted
        return self._answerer.answer(self._run(arrays), as_torch=torch_in, as_tuple=as_tuple)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, as calling it does."""
        return self(*args, **kwargs)

    def map(
        self,
        items: Iterable[str | Mapping[str, Any]],
        *,
        batch_size: int = 32,
        tokenizer: Any = None,
        progress: bool = True,
    ) -> Answer:
        """Run many texts or inputs of mixed length, in batches of similar length, and return results in order.

        Args:
            items: texts, or inputs of one item each by name, without the batch axis.
            batch_size: maximum number of items in one call.
            tokenizer: a transformers tokenizer, instead of the one saved beside the model.
            progress: show a bar on stderr where that is a terminal.

        Returns:
            Numpy arrays by output name, items along the first axis; where an output has a value for every token, a
            list of arrays, one per item.

        Raises:
            InputError: an item is neither text nor inputs of the model.
            UnavailableError: texts were passed, and there is no tokenizer.
        """
        if batch_size < 1:
            raise InputError(self._who, f"batch_size is {batch_size}", "pass 1 or more")
        listed = as_items(self._who, items, tokenizer, self.manifest, self.directory)
        mapper = Mapper(
            self._who,
            self._mapped,
            self.manifest.inputs,
            self.manifest.outputs,
            check=self._checker.check,
            pad_id=getattr(self.config, "pad_token_id", None) or 0,
            streams=self.manifest.streams,
        )
        with progress_bar(len(listed), shown=progress) as advance:
            return mapper.map(listed, batch_size, advance)

    def _mapped(self, arrays: dict[str, Any]) -> Mapping[str, Any]:
        bound, _ = self._checker.bind((), arrays)
        return self._run(bound)

    def __repr__(self) -> str:
        manifest = self.manifest
        precision = manifest.quantized or self._opening.precision or manifest.precision
        return (
            f"<accelerated {manifest.model.class_name or manifest.model.name}: {self.backend} on "
            f"{self._session.device}, {precision}, {self._proof()}{self._hint()}>"
        )

    def _repr_html_(self) -> str:
        return model_to_html(repr(self), self.report)

    def _hint(self) -> str:
        hint = self.report.precision_hint if self.report is not None else None
        return f"; {hint}" if hint is not None else ""

    def _proof(self) -> str:
        if not self.manifest.verified:
            return "NOT verified"
        if any(step.branches for step in self.manifest.steps):
            return "NOT right for all values"
        if self.backend != self.manifest.backend:
            return f"verified on {self.manifest.backend} alone"
        fidelity = self.manifest.fidelity
        return "verified at graph level" if fidelity is not None and fidelity.level == "graph" else "verified"

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":  # part of torch's message when it refuses this as a submodule
            return f"{type(self).__name__} (accelerated, no torch.nn.Module: keep it under a name that holds no module)"
        if name.startswith("__") or "_who" not in vars(self):
            raise AttributeError(name)
        raise explained(self._who, name, dir(type(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self.manifest, self.directory, self._source, self._opening)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same model with its own session; files and eager weights, which never change, are shared."""
        copied: Self = reopened(self.manifest, self.directory, self._plugins, self._source, self._opening)
        return copied

    # Results of the search.

    @property
    def report(self) -> Report | None:
        """The candidates tried, their times and fidelity, and the reason for the choice."""
        return self.manifest.report

    @property
    def backend(self) -> str:
        """The backend that runs it."""
        return self._session.backend

    @property
    def task(self) -> str:
        """The task of the model."""
        return self.manifest.task

    # The interface that transformers expects of a model.

    @cached_property
    def config(self) -> Any:
        """The original's configuration; if transformers is not installed, its values as plain attributes."""
        live = getattr(self._source, "config", None)
        return live if live is not None else _read_config(self.directory)

    @cached_property
    def generation_config(self) -> Any:
        """The original's generation settings, or None."""
        if not (self.directory / "generation_config.json").is_file():
            return None
        from transformers import GenerationConfig

        return GenerationConfig.from_pretrained(self.directory)

    @property
    def device(self) -> Any:
        """The device it runs on: a `torch.device` where torch is imported, its name otherwise."""
        torch = sys.modules.get("torch")
        if torch is None or isinstance(self._session, ForeignSession):
            return self._session.device
        return torch.device(self._session.device)

    @property
    def dtype(self) -> Any:
        """The dtype of its float inputs and outputs."""
        torch = sys.modules.get("torch")
        return getattr(torch, self.manifest.model.dtype) if torch else self.manifest.model.dtype

    @property
    def main_input_name(self) -> str:
        """The name of the main input, as in transformers."""
        return self.manifest.model.main_input

    @property
    def name_or_path(self) -> str:
        """The name or path from which the original was loaded."""
        return self.manifest.model.name

    @property
    def base_model_prefix(self) -> str:
        """The name under which transformers stores the body of a model with a head."""
        return str(getattr(self.config, "model_type", ""))

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """The kinds of input data: "image", "audio", "text"."""
        kinds = {"pixel_values": "image", "input_values": "audio", "input_features": "audio", "input_ids": "text"}
        return tuple(kind for name, kind in kinds.items() if any(spec.name == name for spec in self.manifest.inputs))

    def can_generate(self) -> bool:
        """Whether `generate` works. Not yet: only forward passes without a cache are accelerated."""
        return False

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `UnavailableError` with a remedy: generation is not supported."""
        raise UnavailableError(
            self._who,
            "it was accelerated as one forward pass, without the cache that generation needs",
            "generate with the eager model; call this one for logits and scores",
        )

    def eval(self) -> Self:
        """Return the model itself, which is always in inference mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Return the model itself for False; raise `UnavailableError` for True, since there are no gradients."""
        if mode:
            raise UnavailableError(self._who, "it cannot be trained", "train the eager model")
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model itself for its own device and dtype; anything else is an error.

        Raises:
            UnavailableError: the model would have to be loaded or accelerated again.
        """
        given = (*args, *kwargs.values())
        for wanted in chain.from_iterable((x.device, x.dtype) if hasattr(x, "detach") else (x,) for x in given):
            same_device = str(wanted).split(":")[0] == str(self.device).split(":")[0]
            if wanted is not None and not same_device and wanted != self.dtype and not isinstance(wanted, bool):
                place, dtype = self._session.device, self.manifest.model.dtype
                refuse_move(self._who, wanted, place=place, dtype=dtype, plugins=self._plugins)
        return self

    def cpu(self) -> Self:
        """Same as `to("cpu")`."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None) -> Self:
        """Same as `to("cuda")`."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else str(device))

    def float(self) -> Self:
        """Same as `to(torch.float32)`."""
        return self._in_dtype("float32")

    def half(self) -> Self:
        """Same as `to(torch.float16)`."""
        return self._in_dtype("float16")

    def bfloat16(self) -> Self:
        """Same as `to(torch.bfloat16)`."""
        return self._in_dtype("bfloat16")

    def double(self) -> Self:
        """Same as `to(torch.float64)`."""
        return self._in_dtype("float64")

    def _in_dtype(self, name: str) -> Self:
        return self if name == self.manifest.model.dtype else self.to(name)

    # Saving and closing.

    def save_pretrained(self, save_directory: str | os.PathLike[str], *, overwrite: bool = False, **_: Any) -> None:
        """Write a deployable artifact for `load`, which needs torch and transformers only if its backend does.

        Args:
            save_directory: a new or empty directory, or one that holds an older artifact.
            overwrite: allow a directory that holds other files.

        Raises:
            ArtifactError: the directory holds other files, or cannot be written.
            ExportError: the model stayed eager, and its class cannot be imported again.
        """
        from optimum_core.runtime.eager_saving import with_weights

        files = {name: self.directory / name for name in self.manifest.files}
        report = replace(self.report, from_cache=False) if self.report else None
        whole = with_weights(replace(self.manifest, report=report), self._source, self._plugins, files)
        with whole as (manifest, sources):
            artifacts.save(manifest, sources, Path(save_directory), overwrite=overwrite)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Save the artifact and upload it as a model repository.

        Args:
            repo_id: "owner/name"; created where it does not exist.

        Returns:
            The URL of the commit.

        Raises:
            SourceError: the hub refuses.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi()
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "artifact")
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                done = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=Path(folder) / "artifact",
                    revision=revision,
                    commit_message=f"Accelerated with {self.backend}",
                )
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise SourceError(
                    f"push_to_hub({repo_id!r})", f"the hub refuses: {error}", "check the name and `hf auth login`"
                ) from error
        return str(done.commit_url)

    def close(self) -> None:
        """Free the resources of the runtime."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def named_after(original: str) -> type[AcceleratedModel]:
    """Return a subclass with the original class's name, from which transformers' pipelines infer a model's tasks."""
    return type(original, (AcceleratedModel,), {"__doc__": AcceleratedModel.__doc__}) if original else AcceleratedModel


def _read_config(directory: Path) -> Any:
    file = directory / "config.json"
    if not file.is_file():
        return None
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return _plain_config(json.loads(file.read_text(encoding="utf-8")))
    from transformers import AutoConfig

    try:  # explicitly False, since transformers would ask on the terminal whether to run the repository's code
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except ValueError:  # the configuration's class is in the model's own code
        return _plain_config(json.loads(file.read_text(encoding="utf-8")))


def _plain_config(values: dict[str, Any]) -> SimpleNamespace:
    """Return the values of `config.json` as attributes; keys of `id2label`, strings in JSON, become integers."""
    if isinstance(labels := values.get("id2label"), dict):
        values["id2label"] = {int(key) if key.isdigit() else key: label for key, label in labels.items()}
        values.setdefault("num_labels", len(labels))
    return SimpleNamespace(**values)
