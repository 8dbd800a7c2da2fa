"""Control groups as they are laid out in the field: cores and memory that a process is left with."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import lay_out, machine
from optimum_core.hardware.cores import usable_cores
from optimum_core.hardware.limits import cpu_limit, memory_limit

GIB = 2**30
V1_NO_LIMIT = "9223372036854771712"
V2_MOUNT = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def cores_of(root: Path, logical: int = 64, allowed: int | None = None) -> int:
    return usable_cores(machine(root, logical_cores=logical, physical_cores=None, allowed_cores=allowed))


def test_version_2_takes_the_strictest_on_the_way_up(tmp_path: Path) -> None:
    group = "kubepods.slice/kubepods-burstable.slice/cri-containerd-1f.scope"
    root = lay_out(
        tmp_path,
        {
            "proc/self/mountinfo": V2_MOUNT.format(top="/"),
            "proc/self/cgroup": f"0::/{group}\n",
            f"sys/fs/cgroup/{group}/cpu.max": "max 100000\n",
            f"sys/fs/cgroup/{group}/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/memory.max": "max\n",
            "sys/fs/cgroup/kubepods.slice/cpu.max": "6000000 100000\n",
            "sys/fs/cgroup/kubepods.slice/memory.max": f"{6 * GIB}\n",
            "sys/fs/cgroup/unrelated.slice/cpu.max": "100000 100000\n",
        },
    )
    assert cpu_limit(root) == 4.0
    assert memory_limit(root) == 6 * GIB


def test_version_1_container_sees_its_own_group_at_the_mount_point(tmp_path: Path) -> None:
    own = "/docker/8c3f"
    root = lay_out(
        tmp_path,
        {
            "proc/self/mountinfo": (
                f"40 39 0:30 {own} /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:15 - cgroup cgroup rw,cpu,cpuacct\n"
                f"41 39 0:31 {own} /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n"
            ),
            "proc/self/cgroup": f"12:memory:{own}\n4:cpu,cpuacct:{own}\n1:name=systemd:{own}\n0::/system.slice\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        },
    )
    assert cpu_limit(root) == 2.5
    assert memory_limit(root) == 2 * GIB
    assert cores_of(root) == 2


def test_a_group_below_a_containers_own_is_found_through_the_mount_table(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/mountinfo": "41 39 0:31 /docker/8c3f /sys/fs/cg\\040roup rw - cgroup cgroup rw,memory\n",
            "proc/self/cgroup": "12:memory:/docker/8c3f/worker\n",
            "sys/fs/cg roup/memory.limit_in_bytes": f"{8 * GIB}\n",
            "sys/fs/cg roup/worker/memory.limit_in_bytes": f"{3 * GIB}\n",
        },
    )
    assert memory_limit(root) == 3 * GIB


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT,
        },
    )
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


def test_without_a_mount_table_the_usual_places_are_read(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/a\n1:cpu:/docker/a\n",
            "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": f"{GIB}\n",
        },
    )
    assert memory_limit(root) == GIB
    assert cores_of(root) == 1, "half a core is one thread"


def test_a_group_outside_of_the_namespace_does_not_leave_the_mount(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path / "root",
        {
            "proc/self/mountinfo": V2_MOUNT.format(top="/"),
            "proc/self/cgroup": "0::/../../../../secret\n",
            "sys/fs/cgroup/memory.max": f"{5 * GIB}\n",
        },
    )
    lay_out(tmp_path, {"secret/memory.max": "1024"})
    assert memory_limit(root) == 5 * GIB


@pytest.mark.parametrize(
    ("quota", "allowed", "expected"),
    [("800000 100000", 3, 3), ("300000 100000", 8, 3), ("max 100000", 8, 8), ("150000 100000", None, 1)],
)
def test_affinity_and_quota_the_smaller_wins(tmp_path: Path, quota: str, allowed: int | None, expected: int) -> None:
    root = lay_out(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    assert cores_of(root, allowed=allowed) == expected


def test_without_control_groups_affinity_alone_counts(tmp_path: Path) -> None:
    assert cores_of(tmp_path, allowed=6) == 6
    assert cores_of(tmp_path, allowed=None) == 64


@pytest.mark.parametrize("text", ["", "max", "0 0", "100000 0", "1 2 3", "-5 100000", "9" * 6000 + " 1", "\x00\x01"])
def test_a_damaged_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text, "sys/fs/cgroup/memory.max": text}
    root = lay_out(tmp_path, files)
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


def test_a_folder_in_place_of_a_file_is_no_limit(tmp_path: Path) -> None:
    lay_out(tmp_path, {"proc/self/cgroup": "0::/\n"})
    (tmp_path / "sys/fs/cgroup/memory.max").mkdir(parents=True)
    assert memory_limit(tmp_path) is None


@given(
    logical=st.integers(1, 512),
    allowed=st.none() | st.integers(0, 1024),
    quota=st.integers(-(2**70), 2**70) | st.integers(0, 10**7),
    period=st.integers(-1, 2**70) | st.integers(1, 10**6),
)
def test_usable_cores_are_between_one_and_all(logical: int, allowed: int | None, quota: int, period: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} {period}"}
        root = lay_out(Path(folder), files)
        assert 1 <= cores_of(root, logical=logical, allowed=allowed) <= logical


FIELDS = st.sampled_from(
    ["0", ":", "cpu", "memory", ",", "/", "..", "\0", " ", "\\040", "\\777", " - ", "cgroup2", "\n"]
)
TEXT = st.text() | st.lists(FIELDS, max_size=40).map("".join)


@given(group=TEXT, mountinfo=TEXT, limit=TEXT)
def test_arbitrary_text_never_breaks_reading_limits(group: str, mountinfo: str, limit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "proc/self/cgroup": group,
            "proc/self/mountinfo": mountinfo,
            "sys/fs/cgroup/cpu.max": limit,
            "sys/fs/cgroup/memory.max": limit,
        }
        root = lay_out(Path(folder), files)
        cpu, memory = cpu_limit(root), memory_limit(root)
        assert cpu is None or cpu > 0
        assert memory is None or memory > 0
