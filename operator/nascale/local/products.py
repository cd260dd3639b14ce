"""The programs that an embedded cluster is made of, which versions fit, and how each is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Version = tuple[int, int, int]


@dataclass(frozen=True)
class GoModule:
    """How a product's programs are built with the Go toolchain."""

    packages: Mapping[str, str]
    """Import path of each program's main package."""
    template: str | None = None
    """Folder below ``go/`` with a go.mod and go.sum of ours, for modules that ``go install`` refuses because
    they carry replace directives. None: ``go install PACKAGE@VERSION``."""
    module_version: str = ""
    linker_flags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cold_minutes: float = 1.0
    """How long two cores need with an empty build cache."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """What lies beside the programs when they are built: a module, and a folder of it. The module is a path
    that the template's go.mod names, or ``PATH@VERSION``."""


@dataclass(frozen=True)
class Product:
    """Programs of one release that are used together, so all come from one place."""

    name: str
    version: Version
    """What is built where nothing fitting is found."""
    programs: tuple[str, ...]
    oldest: Version
    newest: Version | None
    """The newest version that is taken from elsewhere, by major and minor; None: any."""
    module: GoModule
    version_arguments: tuple[str, ...] = ("--version",)
    version_pattern: str = r"v?(\d+)\.(\d+)\.(\d+)"

    @property
    def version_text(self) -> str:
        """The version as its project writes it."""
        return "v" + ".".join(str(number) for number in self.version)

    def read_version(self, output: str) -> Version | None:
        """Read the version from what the program prints; None if it names none."""
        match = re.search(self.version_pattern, output)
        if match is None:
            return None
        major, minor, patch = (int(number or 0) for number in match.groups())
        return major, minor, patch

    def fits(self, version: Version) -> bool:
        """Whether an embedded cluster can use this version."""
        return version >= self.oldest and (self.newest is None or version[:2] <= self.newest[:2])


KUBERNETES_VERSION: Final[Version] = (1, 36, 3)
_KUBERNETES_OLDEST: Final[Version] = (1, 33, 0)
_KUBERNETES_NEWEST: Final[Version] = (1, 37, 0)
_KUBERNETES_PATTERN: Final = r"v(\d+)\.(\d+)\.(\d+)(?:\+\S+)?[\s\"]"
"""Releases and distributions' builds (v1.35.2+k3s1), no pre-releases (v1.36.0-rc.1)."""


def _kubernetes(programs: tuple[str, ...], cold_minutes: float) -> GoModule:
    version = "v" + ".".join(str(number) for number in KUBERNETES_VERSION)
    return GoModule(
        packages={program: f"k8s.io/kubernetes/cmd/{program}" for program in programs},
        template="kubernetes",
        # Without this the server calls itself v0.0.0, and clients then refuse or misjudge it.
        linker_flags=("-X", f"k8s.io/component-base/version.gitVersion={version}"),
        cold_minutes=cold_minutes,
    )


_CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")

KUBERNETES: Final = Product(
    name="kubernetes",
    version=KUBERNETES_VERSION,
    programs=_CONTROL_PLANE,
    oldest=_KUBERNETES_OLDEST,
    newest=_KUBERNETES_NEWEST,
    module=_kubernetes(_CONTROL_PLANE, cold_minutes=5),
    version_pattern=_KUBERNETES_PATTERN,
)
KUBECTL: Final = Product(
    name="kubectl",
    version=KUBERNETES_VERSION,
    programs=("kubectl",),
    oldest=_KUBERNETES_OLDEST,
    newest=None,
    module=_kubernetes(("kubectl",), cold_minutes=0.5),
    version_arguments=("version", "--client"),
    # The same output names Kustomize's version too.
    version_pattern=rf"Client Version: {_KUBERNETES_PATTERN}",
)
KUBELET: Final = Product(
    name="kubelet",
    version=KUBERNETES_VERSION,
    programs=("kubelet",),
    oldest=_KUBERNETES_OLDEST,
    newest=_KUBERNETES_NEWEST,
    module=_kubernetes(("kubelet",), cold_minutes=0.5),
    version_pattern=_KUBERNETES_PATTERN,
)
ETCD: Final = Product(
    name="etcd",
    version=(3, 6, 16),
    programs=("etcd",),
    oldest=(3, 5, 0),
    newest=(3, 99, 0),
    module=GoModule(packages={"etcd": "go.etcd.io/etcd/server/v3"}, template="etcd", cold_minutes=1),
    version_pattern=r"etcd Version: (\d+)\.(\d+)\.(\d+)",
)
PROMETHEUS: Final = Product(
    name="prometheus",
    version=(3, 16, 0),
    programs=("prometheus", "promtool"),
    oldest=(3, 0, 0),
    newest=(3, 999, 0),
    module=GoModule(
        packages={
            "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
            "promtool": "github.com/prometheus/prometheus/cmd/promtool",
        },
        module_version="v0.316.0",  # the Go module of release 3.16.0
        linker_flags=("-X", "github.com/prometheus/common/version.Version=3.16.0"),
        # Of all service discoveries only Kubernetes': a third less to build.
        tags=("remove_all_sd", "enable_kubernetes_sd"),
        cold_minutes=3,
    ),
    version_pattern=r"version (\d+)\.(\d+)\.(\d+)",
)
HELM: Final = Product(
    name="helm",
    version=(4, 3, 1),
    programs=("helm",),
    oldest=(3, 14, 0),
    newest=None,
    module=GoModule(packages={"helm": "helm.sh/helm/v4/cmd/helm"}, module_version="v4.3.1", cold_minutes=2),
    version_arguments=("version", "--template", "{{.Version}}"),
    version_pattern=r"v(\d+)\.(\d+)(?:\.(\d+))?",
)
KUEUE: Final = Product(
    name="kueue",
    version=(0, 15, 0),
    programs=("kueue",),
    oldest=(0, 15, 0),
    newest=(0, 15, 0),
    module=GoModule(
        packages={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        template="kueue",
        cold_minutes=2.5,
        folders={"sigs.k8s.io/kueue": "charts"},
    ),
)
"""It tells no version of its own: only what we have built, or what somebody has named, is taken."""

PROMETHEUS_OPERATOR_CRDS: Final = "example/prometheus-operator-crd"
KUBECONFORM: Final = Product(
    name="kubeconform",
    version=(0, 8, 0),
    programs=("kubeconform",),
    oldest=(0, 7, 0),
    newest=None,
    module=GoModule(
        packages={"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
        module_version="v0.8.0",
        linker_flags=("-X", "main.version=v0.8.0"),
        cold_minutes=0.5,
        folders={"github.com/prometheus-operator/prometheus-operator@v0.85.0": PROMETHEUS_OPERATOR_CRDS},
    ),
    version_arguments=("-v",),
)
"""Beside it lie the CRDs of the Prometheus Operator, which the chart's optional objects are compared with."""

CLUSTER: Final = (KUBERNETES, KUBECTL, ETCD, PROMETHEUS)
"""What an embedded cluster needs."""

EXTRAS: Final[Mapping[str, Product]] = {
    product.name: product for product in (HELM, KUBECONFORM, KUBELET, KUEUE)
}
"""What the cluster itself does not need: helm and kubeconform for the chart's tests, kubelet for tests on a
real node, Kueue for tests of queues."""
