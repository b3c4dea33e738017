"""The number of CPUs, on systems and in containers that are made up here."""

import os

import pytest

from kt.run import threads


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Eight CPUs and no control groups; returns a function that makes the latter up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")

    def groups(membership: str, **files: str) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")

    return groups


def test_the_affinity_counts(system):
    assert threads.processors() == 8


@pytest.mark.parametrize(("found", "expected"), [(6, 6), (None, 1)])
def test_without_affinities_all_cpus_count(system, monkeypatch, found, expected):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "process_cpu_count", lambda: found, raising=False)
    assert threads.processors() == expected
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "cpu_count", lambda: found)
    assert threads.processors() == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("something else", 8),
    ],
)
def test_a_containers_quota_limits(system, quota, expected):
    system("0::/\n", **{"cpu.max": quota})
    assert threads.processors() == expected


@pytest.mark.parametrize(("own", "around", "expected"), [(3, 2, 2), (2, 3, 2), ("max", 5, 5)])
def test_the_groups_around_the_own_limit_too(system, own, around, expected):
    files = {"a/b/cpu.max": f"{own} 1", "a/cpu.max": f"{around} 1", "other/cpu.max": "1 1"}
    system("0::/a/b\n", **files)
    assert threads.processors() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2)])
def test_version_1(system, quota, expected):
    files = {"cpu/own/cpu.cfs_quota_us": quota, "cpu/own/cpu.cfs_period_us": "100000"}
    system("5:memory:/own\n4:cpu,cpuacct:/own\n1:name=systemd:/x:y\n0::/own\n", **files)
    assert threads.processors() == expected


def test_a_path_that_leads_outside_and_a_group_that_is_not_shown(system):
    system("0::/../../elsewhere\n", **{"cpu.max": "2 1"})
    assert threads.processors() == 2
