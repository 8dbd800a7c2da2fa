"""The built-in backend `torch`: the eager model itself. It is the reference, the baseline, and the fallback when no
other backend is installed or faster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from os import environ
from shutil import which
from typing import TYPE_CHECKING

from optimum_core.hookspecs import hookimpl
from optimum_core.options import no_options
from optimum_core.packages import missing, versions
from optimum_core.types import (
    Array,
    Artifact,
    ExportRequest,
    Hardware,
    Limitation,
    Offer,
    Session,
    SessionRequest,
    Support,
)

if TYPE_CHECKING:
    from optimum_core.models.backends.eager_torch.session import EagerSession
    from optimum_core.models.decoders.eager_state import EagerState

NAME = "torch"
_CHECK_OPTIONS = partial(no_options, f"backend {NAME!r}")
#: The level of `torch.compile`; without a level, the model runs as it is.
COMPILE = "compile"
#: CPU features with which autocast to bf16 is faster than fp32; without bf16 multiplication it is slower.
BF16_FEATURES = frozenset({"amx_bf16", "avx512_bf16"})


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Return the CPU's offer if torch and transformers are installed, else the limitation."""
    if lacking := missing(("torch", "transformers")):
        return Support(
            limitations=(
                Limitation(
                    what="run the eager model",
                    reason=f"{' and '.join(lacking)} not installed",
                    remedy="pip install 'optimum-core[export]'",
                ),
            )
        )
    offer = Offer(
        device="cpu",
        exports=("torch",),
        loads=("torch",),
        stateful=("torch",),
        live=True,
        levels=(COMPILE,) if has_compiler() else (),
        precisions=("fp32", "bf16") if hardware.cpu.features & BF16_FEATURES else ("fp32",),
    )
    found = versions(("torch", "transformers"))
    return Support(offers=(offer,), versions=found, check_options=_CHECK_OPTIONS)


def has_compiler() -> bool:
    """Whether `torch.compile` finds a C++ compiler to work with."""
    named = environ.get("CXX")
    return any(which(name) for name in ((named,) if named else ("g++", "clang++", "cl")))


@hookimpl
def export(request: ExportRequest) -> Artifact | None:
    """Write the model as transformers saves it: `config.json` and safetensors."""
    if request.backend != NAME:
        return None
    from optimum_core.models.backends.eager_torch.session import save_eager

    return save_eager(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open a session on the eager model if there is one, otherwise on the artifact."""
    if request.backend != NAME:
        return None
    from optimum_core.models.backends.eager_torch.session import open_eager

    return open_eager(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Call the model, or a decoder with its state, without gradients."""
    if session.backend != NAME:
        return None
    eager: EagerSession | EagerState = session  # type: ignore[assignment]
    return eager.run(inputs)
