"""Processors as they describe themselves on Linux, macOS and through py-cpuinfo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.hardware.cpu import find_cpu, parse_proc_cpuinfo, parse_sysctl
from optimum_core.hardware.features import normalize
from optimum_core.hardware.machine import Machine, ask_cpuinfo

EPYC = """processor\t: {0}
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9554 64-Core Processor
stepping\t: 1
flags\t\t: fpu vme sse sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c rdrand svm avx2 avx512f avx512dq avx512ifma \
avx512cd sha_ni avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq
bugs\t\t: sysret_ss_attrs spectre_v1 spectre_v2 spec_store_bypass srso

"""
GRAVITON3 = """processor\t: {0}
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop \
sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

"""
APPLE_M2 = """machdep.cpu.cores_per_package: 8
machdep.cpu.brand_string: Apple M2
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.arm.AdvSIMD: 1
hw.optional.floatingpoint: 1
"""
INTEL_MAC = """machdep.cpu.vendor: GenuineIntel
machdep.cpu.brand_string: Intel(R) Core(TM) i7-8750H CPU @ 2.20GHz
machdep.cpu.features: FPU VME SSE3 SSSE3 FMA CX16 SSE4.1 SSE4.2 AES AVX1.0 F16C
machdep.cpu.leaf7_features: RDWRFSGS BMI1 AVX2 SMEP BMI2
hw.optional.avx2_0: 1
hw.optional.avx512f: 0
"""


class Asked:
    """Answers for commands and py-cpuinfo, and a record of the questions."""

    def __init__(self, output: str | None = None, facts: Mapping[str, object] | None = None) -> None:
        self.output, self.facts = output, facts or {}
        self.questions: list[str] = []

    def run(self, command: Sequence[str]) -> str | None:
        self.questions.append(" ".join(command))
        return self.output

    def cpuinfo(self) -> Mapping[str, object]:
        self.questions.append("cpuinfo")
        return self.facts


def machine(asked: Asked, system: str, architecture: str = "x86_64", root: Path = Path("nowhere")) -> Machine:
    return Machine(
        system=system,
        system_version="1",
        architecture=architecture,
        logical_cores=8,
        physical_cores=8,
        allowed_cores=None,
        memory=2**30,
        root=root,
        run=asked.run,
        cpuinfo=asked.cpuinfo,
    )


def test_amd_with_avx512() -> None:
    found = parse_proc_cpuinfo(EPYC.format(0) + EPYC.format(1))
    assert (found.vendor, found.model) == ("amd", "AMD EPYC 9554 64-Core Processor")
    assert {"avx", "avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx512_bf16"} <= found.features
    assert not {"amx_tile", "avx512_fp16", "avx_vnni", "svm", "gfni"} & found.features


def test_graviton_is_named_by_its_part_number() -> None:
    found = parse_proc_cpuinfo(GRAVITON3.format(0) + GRAVITON3.format(1))
    assert (found.vendor, found.model) == ("arm", "Neoverse-V1")
    assert found.features == {"neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve_i8mm", "sve_bf16"}


def test_of_unequal_cores_only_common_features_count() -> None:
    little = GRAVITON3.format(0).replace("0xd40", "0xd05").replace(" sve ", " ").replace(" i8mm ", " ")
    found = parse_proc_cpuinfo(little + GRAVITON3.format(1))
    assert found.model == "Cortex-A55 + Neoverse-V1"
    assert "dotprod" in found.features
    assert not {"sve", "i8mm"} & found.features


@pytest.mark.parametrize(
    ("implementer", "part", "vendor", "model"),
    [
        ("0x41", "0xfff", "arm", "arm part 0xfff"),
        ("0xc0", "0xac3", "ampere", "ampere part 0xac3"),
        ("0x99", "0xd40", "", "part 0xd40"),
    ],
)
def test_unknown_arm_parts_keep_their_number(implementer: str, part: str, vendor: str, model: str) -> None:
    found = parse_proc_cpuinfo(f"CPU implementer\t: {implementer}\nCPU part\t: {part}\n")
    assert (found.vendor, found.model) == (vendor, model)


def test_a_vendor_that_is_not_in_the_table_speaks_for_itself() -> None:
    assert parse_proc_cpuinfo("vendor_id\t: HygonGenuine\n").vendor == "HygonGenuine"


def test_apple_chip() -> None:
    found = find_cpu(machine(Asked(APPLE_M2), "macos", "aarch64"))
    assert (found.vendor, found.model) == ("apple", "Apple M2")
    assert found.features == {"neon", "dotprod", "bf16", "i8mm", "fp16"}


def test_intel_mac() -> None:
    found = parse_sysctl(INTEL_MAC)
    assert (found.vendor, found.model) == ("intel", "Intel(R) Core(TM) i7-8750H CPU @ 2.20GHz")
    assert found.features == {"ssse3", "sse4_1", "sse4_2", "fma", "f16c", "avx", "avx2"}


def test_windows_asks_py_cpuinfo_and_its_spellings_are_normalized() -> None:
    facts = {"vendor_id_raw": "GenuineIntel", "brand_raw": " Xeon ", "flags": ["avx512vnni", "avx512vbmi2", "sse4_1"]}
    asked = Asked(facts=facts)
    found = find_cpu(machine(asked, "windows"))
    assert (found.vendor, found.model) == ("intel", "Xeon")
    assert found.features == {"avx512_vnni", "avx512_vbmi2", "sse4_1"}
    assert asked.questions == ["cpuinfo"]


def test_linux_does_not_ask_the_slow_library(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(EPYC.format(0))
    asked = Asked()
    assert find_cpu(machine(asked, "linux", root=tmp_path)).vendor == "amd"
    assert asked.questions == []


def test_sixty_four_bit_arm_has_neon_even_when_nobody_says_so() -> None:
    assert find_cpu(machine(Asked(), "windows", "aarch64")).features == {"neon"}


@pytest.mark.parametrize("facts", [{"flags": None}, {"flags": "avx2"}, {"brand_raw": None, "vendor_id_raw": 7}])
def test_odd_answers_of_py_cpuinfo_are_borne(facts: dict[str, object]) -> None:
    assert find_cpu(machine(Asked(facts=facts), "freebsd")).features == frozenset()


def test_both_sources_agree_about_this_processor() -> None:
    text = Path("/proc/cpuinfo")
    if not text.exists():
        pytest.skip("only Linux has both sources")
    flags = ask_cpuinfo().get("flags")
    assert isinstance(flags, list)
    # py-cpuinfo asks the processor itself too, which may know of more than the kernel has enabled.
    assert parse_proc_cpuinfo(text.read_text(encoding="utf-8")).features <= normalize(flags)


def test_a_library_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import cpuinfo

    def fail() -> dict[str, object]:
        raise Exception("py-cpuinfo currently only works on X86 and some others")

    monkeypatch.setattr(cpuinfo, "get_cpu_info", fail)
    assert ask_cpuinfo() == {}


KEYS = st.sampled_from(
    ["flags", "Features", "CPU part", "CPU implementer", "model name", "hw.optional.", ":", "\n", "1"]
)


@given(st.text() | st.lists(KEYS, max_size=40).map("".join))
def test_arbitrary_text_never_breaks_the_parsers(text: str) -> None:
    for features in (parse_proc_cpuinfo(text).features, parse_sysctl(text).features):
        assert normalize(features) == features
    assert parse_sysctl(text).model in text
