"""The process that computes sampled requests again with the eager model: `python -m optimum_serve.monitoring.eager`.

It reads samples from its input and writes verdicts to its output, each with its length in front, in msgpack. It runs
at the lowest priority, on one thread, beside a server that does not need torch itself.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping
from typing import IO, Any

import msgspec
import numpy as np

from optimum_core.types.arrays import NDArray

_LENGTH = struct.Struct("<I")


class Tensor(msgspec.Struct, array_like=True):
    """An array."""

    dtype: str
    shape: list[int]
    data: bytes

    @classmethod
    def of(cls, array: Any) -> Tensor:
        """Return an array as it is sent."""
        values = np.ascontiguousarray(array)
        return cls(values.dtype.str, list(values.shape), values.tobytes())

    def array(self) -> NDArray:
        """Return the array."""
        return np.frombuffer(self.data, np.dtype(self.dtype)).reshape(self.shape).copy()


class Begin(msgspec.Struct):
    """The model to compare with, what it has to be, and the precision of the served one."""

    original: str
    fingerprint: str
    precision: str


class Sample(msgspec.Struct):
    """One input, by name or as one array (a picture, a sound), and the served outputs for it."""

    named: dict[str, Tensor]
    whole: Tensor | None
    outputs: dict[str, Tensor]


class Verdict(msgspec.Struct):
    """The comparison of one sample.

    Attributes:
        problem: why nothing was compared.
        agrees: whether the greatest score is at the same place; None: there are no scores.
    """

    problem: str = ""
    error: float = 0.0
    passed: bool = False
    agrees: bool | None = None


def send(stream: IO[bytes], message: Any) -> None:
    """Write a message."""
    body = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def receive(stream: IO[bytes], kind: type[Any]) -> Any:
    """Return the next message; None: the other side has ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    body = stream.read(*_LENGTH.unpack(head))
    return msgspec.msgpack.decode(body, type=kind)


def main() -> None:
    """Answer samples until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not stand between answers
    begin = receive(sys.stdin.buffer, Begin)
    if begin is None:
        return
    model, verdict = opened(begin)
    send(answers, verdict)
    while model is not None and (sample := receive(sys.stdin.buffer, Sample)) is not None:
        send(answers, _compared(model, sample, begin.precision))


def opened(begin: Begin) -> tuple[Any, Verdict]:
    """Return the eager model, or None with the reason why it cannot be compared with."""
    from optimum_core import accelerate
    from optimum_core.errors import OptimumError

    try:
        model = accelerate(begin.original, target="torch", budget=0, verify=False)  # it is the reference
    except OptimumError as error:
        return None, Verdict(problem=str(error))
    if model.manifest.model.fingerprint != begin.fingerprint:
        return None, Verdict(problem=f"{begin.original} is not the model that the served one was made from")
    return model, Verdict()


def _compared(model: Any, sample: Sample, precision: str) -> Verdict:
    from optimum_core.errors import OptimumError

    named: Mapping[str, NDArray] = {name: tensor.array() for name, tensor in sample.named.items()}
    item = named if sample.whole is None else sample.whole.array()
    outputs = {name: tensor.array()[None] for name, tensor in sample.outputs.items()}
    try:
        fidelity = model.compare([item], outputs, precision=precision)
    except OptimumError as error:
        return Verdict(problem=str(error))
    agreements = [one.agreement for one in fidelity.results if one.agreement is not None]
    return Verdict(
        error=max(one.relative_error for one in fidelity.results),
        passed=fidelity.passed,
        agrees=min(agreements) == 1.0 if agreements else None,
    )


if __name__ == "__main__":
    main()
