"""What a process may use: affinity, quotas and limits of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coresetdb.workers import machine


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Writes control groups, as on a machine of 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file: Path = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),  # the path is not seen inside
        ("4:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "600000\n",
                                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 6),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n",
                             "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "500000\n",
                             "cpu/cpu.cfs_period_us": "100000\n"}, 5),
        ("3:cpuset:/x\n", {"cpuset/x/cpu.max": "100000 100000"}, 64),
        ("", {}, 64),
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
    ],
)  # fmt: skip
def test_quotas_bound_the_processors(groups, own, files, expected):
    groups(own, files)
    assert machine.usable_processors() == expected


def test_affinity_bounds_them_too(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    groups("0::/\n", {"cpu.max": "800000 100000"})
    assert machine.usable_processors() == 3


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/a\n", {"a/memory.max": "3000", "a/memory.current": "1000", "memory.max": "max"}),
        ("0::/\n", {"memory.max": "3000", "memory.current": "1500",
                    "memory.stat": "anon 1000\ninactive_file 500\n"}),
        ("7:memory:/a\n", {"memory/a/memory.limit_in_bytes": "5000",
                           "memory/a/memory.usage_in_bytes": "3000"}),
    ],
)  # fmt: skip
def test_limits_bound_the_memory(groups, own, files):
    groups(own, files)
    assert machine.free_memory() == 2000


def test_a_group_beyond_its_limit_has_no_memory(groups):
    groups("0::/\n", {"memory.max": "3000", "memory.current": "4000"})
    assert machine.free_memory() == 0


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("0", None), ("x", None)]
)
def test_the_users_threads(monkeypatch, value, threads):
    monkeypatch.setenv(machine.THREADS_VARIABLE, value)
    assert machine.threads_of_user() == threads


def test_this_machine():
    assert 1 <= machine.usable_processors() <= (os.cpu_count() or 1)
    free = machine.free_memory()
    assert free is None or free > 0
