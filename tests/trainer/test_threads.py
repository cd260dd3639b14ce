"""Threads follow the container's limits, whichever way they are set."""

import pytest

from nascale_trainer.threads import ControlGroup, available_threads

UNLIMITED = ControlGroup(unified=None, cpu=None)


def version_2(root, maximum, path="/"):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{path}\n")
    folder = root / "sys/fs/cgroup" / path.strip("/")
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(maximum)
    (folder / "cpu.stat").write_text("usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 7\n")
    return ControlGroup.of_this_process(root)


def version_1(root, quota, controllers="cpu,cpuacct"):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"5:memory:/pod\n4:{controllers}:/pod\n0::/\n")
    folder = root / "sys/fs/cgroup" / controllers / "pod"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 7\n")
    return ControlGroup.of_this_process(root)


@pytest.mark.parametrize(
    ("maximum", "quota", "threads"),
    [
        ("200000 100000", 2.0, 2),
        ("250000 100000", 2.5, 2),
        ("50000 100000", 0.5, 1),
        ("max 100000", None, 64),
    ],
)
@pytest.mark.parametrize("path", ["/", "/kubepods/pod1/container"])
def test_cgroup_v2(tmp_path, maximum, quota, threads, path):
    group = version_2(tmp_path, maximum, path)
    assert group.quota() == quota
    assert group.throttled() == 3
    assert available_threads(environ={}, group=group, affinity=64) == threads


@pytest.mark.parametrize(
    ("quota", "expected", "threads"), [(150_000, 1.5, 1), (-1, None, 64), (400_000, 4.0, 4)]
)
@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_cgroup_v1(tmp_path, quota, expected, threads, controllers):
    group = version_1(tmp_path, quota, controllers)
    assert group.quota() == expected
    assert group.throttled() == 4
    assert available_threads(environ={}, group=group, affinity=64) == threads


def test_a_machine_without_control_groups_has_no_quota(tmp_path):
    group = ControlGroup.of_this_process(tmp_path)
    assert group.quota() is None
    assert group.throttled() is None


@pytest.mark.parametrize(
    ("affinity", "environ", "maximum", "threads"),
    [
        (4, {}, None, 4),
        (4, {"OMP_NUM_THREADS": "2"}, None, 2),
        (4, {"OMP_NUM_THREADS": "3,1"}, None, 3),
        (4, {"OMP_NUM_THREADS": "8"}, None, 4),
        (4, {"OMP_NUM_THREADS": "many"}, None, 4),
        (4, {"OMP_NUM_THREADS": "0"}, None, 1),
        (4, {}, 1, 1),
        (4, {"OMP_NUM_THREADS": "2"}, 3, 2),
    ],
)
def test_the_smallest_limit_counts(affinity, environ, maximum, threads):
    assert available_threads(maximum, environ, UNLIMITED, affinity) == threads


def test_this_machine_has_at_least_one():
    assert available_threads() >= 1
