"""Sources of small backends without a fault: what `faulty_backends` breaks in one place each."""

from __future__ import annotations

# What a backend of the eager model looks like when nothing is wrong; every fault is a small change of this text.
GOOD = """
from dataclasses import replace

from optimum_core.errors import OptionError, SessionError
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Limitation, Offer, Support, Transform

BACKEND = "good"
READ = {}


@hookimpl
def probe(hardware):
    return Support(offers=(Offer(device="cpu", loads=("torch",)),), limitations=())


def eager(request):
    from importlib import import_module  # of core's own module, which a backend elsewhere must not name

    key = request.artifact.path, request.source is None
    if key not in READ:  # to read a model takes longer than all that a test does with it
        eager = import_module("optimum_core.models.backends.eager_torch.session")
        READ[key] = eager.open_eager(replace(request, options={}))
    return READ[key]


class Session:
    backend, device = BACKEND, "cpu"

    def __init__(self, request):
        for name in request.options:
            raise OptionError(BACKEND, f"unknown option {name!r}", "there are none")
        self.eager = eager(request)
        self.inputs, self.outputs = self.eager.inputs, self.eager.outputs
        self.buffers, self.closed = {}, False

    def close(self):
        self.closed = True

    def run(self, inputs):
        if self.closed:
            raise SessionError(BACKEND, "the session is closed", "load it again")
        inputs = dict(inputs)
        outputs = self.eager.run(inputs)
        return outputs

    def direct(self, inputs):
        outputs = self.run(inputs)
        return [outputs[spec.name] for spec in self.outputs]


@hookimpl
def load_session(request):
    return Session(request) if request.backend == BACKEND else None


@hookimpl
def infer(session, inputs):
    return session.run(inputs) if session.backend == BACKEND else None
"""

# Without torch and with a model of one constant: quick to open many times in another process.
STUB = GOOD.replace("self.eager = eager(request)", "self.raw = read(request.artifact)").replace(
    "self.inputs, self.outputs = self.eager.inputs, self.eager.outputs",
    "self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs",
)
STUB = STUB.replace(
    "outputs = self.eager.run(inputs)",
    'import numpy as np\n\n        outputs = {"logits": np.full((len(inputs["input_ids"]), 5), 1.0, np.float32)}',
)
STUB += '''

def read(artifact):
    """The file's bytes, if it is whole: safetensors begin with the length of their header, which tells all others."""
    import json

    path = artifact.main_file
    raw = path.read_bytes() if path.is_file() else b""
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start]) if 8 < start < len(raw) else {}
    ends = [item["data_offsets"][1] for item in header.values() if "data_offsets" in item]
    if start + max(ends, default=1) != len(raw):
        raise SessionError(BACKEND, f"{path} is damaged", "export it again")
    return raw
'''

# It rounds weights, and runs two schemes.
QUANTIZER = GOOD.replace(
    'loads=("torch",)',
    'loads=("torch",), schemes=SCHEMES, runs=SCHEMES, quantizes=(Transform(takes="torch", gives="torch"),)',
).replace("self.buffers, self.closed", "self.scheme = request.artifact.precision\n        self.buffers, self.closed")
QUANTIZER += """

SCHEMES = "weight-only-int8", "weight-only-int4"


@hookimpl
def quantize(request):
    import shutil

    from safetensors.torch import load_file, save_file

    if request.backend != BACKEND:
        return None
    read, folder = request.artifact, request.output / "rounded"
    shutil.copytree(read.path, folder)
    weights = load_file(read.main_file)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            step = tensor.abs().max() / 127
            weights[name] = (tensor / step).round() * step
    save_file(weights, folder / read.files[0], metadata={"format": "pt"})
    return replace(read, path=folder, precision=request.config.weights)
"""

# It compiles for a device that is nowhere; what it read is compared in its place.
COMPILER = """
from dataclasses import replace

from optimum_core.errors import UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Offer, Support, Transform

BACKEND = "good"
CODE = f"{BACKEND}-code"


@hookimpl
def probe(hardware):
    step = Transform(takes="torch", gives=CODE)
    return Support(offers=(Offer(device="far", optimizes=(step,), loads=(CODE,), proof="none"),))


@hookimpl
def optimize(request):
    if request.backend != BACKEND:
        return None
    read = request.artifact
    (request.output / "code").write_bytes(b"compiled")
    return replace(read, format=CODE, path=request.output, files=("code",), compiled_from=read)


@hookimpl
def load_session(request):
    if request.backend == BACKEND:
        raise UnavailableError(BACKEND, "there is no such device here", "take it there")


@hookimpl
def infer(session, inputs):
    return None
"""
