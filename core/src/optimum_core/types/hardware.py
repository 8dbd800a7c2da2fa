"""Description of the machine for a backend's probe. Sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The processor and the share of it that this process may use.

    Attributes:
        vendor: "intel", "amd", "arm", "apple" or the name that the machine reports.
        model: the marketing name.
        architecture: "x86_64", "aarch64", …
        features: instruction sets by their common names ("avx2", "avx512_vnni", "amx_bf16", "neon", "sve").
        physical_cores: cores of the machine, without hyper-threads.
        usable_cores: cores that affinity and the cgroup limit leave to this process, at least 1.
    """

    vendor: str
    model: str
    architecture: str
    features: frozenset[str]
    physical_cores: int
    usable_cores: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A graphics processor.

    Attributes:
        vendor: "nvidia", "amd", "intel", "apple" or the name that the machine reports.
        name: the marketing name.
        memory: bytes of its own memory; None: unknown, or shared with the processor.
        compute_capability: NVIDIA's, such as (8, 9); None elsewhere.
        driver: the driver's version.
    """

    vendor: str
    name: str
    memory: int | None = None
    compute_capability: tuple[int, int] | None = None
    driver: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Npu:
    """A neural processor.

    Attributes:
        vendor: "intel", "amd", "apple" or the name that the machine reports.
        name: the marketing name.
    """

    vendor: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The hardware facts that a probe may depend on, detected without importing a runtime.

    Attributes:
        system: "linux", "macos", "windows" or the name that the machine reports, in lower case.
        system_version: the kernel's release, or on macOS the product version ("15.1").
        cpu: the processor.
        memory: bytes that this process may use (a cgroup limit counts).
        gpus: graphics processors, as the operating system lists them.
        npus: neural processors.
    """

    system: str
    system_version: str
    cpu: Cpu
    memory: int
    gpus: tuple[Gpu, ...] = ()
    npus: tuple[Npu, ...] = ()
