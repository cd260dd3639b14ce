"""The processes of an embedded cluster: their command lines, and how to tell that each one is ready."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nascale.local.api_server import ApiServer, http_answers
from nascale.local.binaries import Binaries
from nascale.local.certificates import FIRST_SERVICE_ADDRESS, LOOPBACK, Authority, KeyPair, ensure_signing_key
from nascale.local.kubeconfig import with_certificate
from nascale.local.layout import ClusterState, Layout

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
NODE: Final = "node"
PROMETHEUS: Final = "prometheus"
OPERATOR: Final = "operator"
OPERATOR_METRICS: Final = "operator-metrics"
ALL: Final = (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER, NODE, PROMETHEUS, OPERATOR)
"""In the order of starting; they stop in the reverse order."""

PORT_NAMES: Final = (
    "etcd",
    "etcd-peer",
    API_SERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    PROMETHEUS,
    OPERATOR_METRICS,
)
SERVICE_RANGE: Final = f"{FIRST_SERVICE_ADDRESS.rsplit('.', 1)[0]}.0/16"
ISSUER: Final = "https://kubernetes.default.svc"
KUBELET_CLIENT: Final = "kube-apiserver-kubelet-client"
"""The user as whom the API server asks the node for logs."""
AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  - level: Metadata
"""
INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""What every process takes over from the shell of ``up``; beside these, whatever names an accelerator."""
INHERITED_PREFIXES: Final = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_")
DIRECTORY_VARIABLE: Final = "NASCALE_CLUSTER_DIRECTORY"
"""In the environment of every process of a cluster, and of what these start: ``down`` finds them by it."""


@dataclass(frozen=True)
class Component:
    """One process of a cluster."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what all processes inherit."""
    inputs: tuple[Path, ...] = ()
    """Files that it reads at its start only: a change of them means a restart."""
    grace_seconds: float = 10.0

    @property
    def revision(self) -> str:
        """Digest of everything that it is started with."""
        digest = hashlib.sha256()
        for part in (*self.argv, *(f"{key}={value}" for key, value in sorted(self.environment.items()))):
            digest.update(part.encode() + b"\0")
        for path in self.inputs:
            digest.update(path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]


class Credentials:
    """All certificates, keys and kubeconfigs of a cluster, made on first use."""

    def __init__(self, layout: Layout, state: ClusterState) -> None:
        """Make what is missing."""
        server = f"https://{LOOPBACK}:{state.ports[API_SERVER]}"
        cluster = Authority(layout.pki, f"nascale-{state.name}")
        store = Authority(layout.pki / "etcd", f"nascale-{state.name}-etcd")
        self.authority = cluster.pair.certificate
        self.store_authority = store.pair.certificate
        self.store_server = store.issue("server", "etcd")
        self.store_client = store.issue("apiserver", "kube-apiserver")
        self.serving = cluster.issue("serving", "nascale-local")
        # A node asks, as a kubelet does, whether its caller may read logs: a binding gives that right alone.
        self.kubelet_client = cluster.issue("kubelet-client", "kube-apiserver-kubelet-client")
        self.admin = cluster.issue("admin", "nascale-admin", groups=["system:masters"])
        self.account_key = layout.pki / "service-accounts.key"
        self.account_public_key = layout.pki / "service-accounts.pub"
        ensure_signing_key(self.account_key, self.account_public_key)
        node = node_name(state)
        users: dict[str, KeyPair] = {
            CONTROLLER_MANAGER: cluster.issue("controller-manager", f"system:{CONTROLLER_MANAGER}"),
            SCHEDULER: cluster.issue("scheduler", f"system:{SCHEDULER}"),
            NODE: cluster.issue("node", f"system:node:{node}", groups=["system:nodes"]),
        }
        context = f"nascale-{state.name}"
        with_certificate(
            layout.kubeconfig, name=context, server=server, authority=self.authority, pair=self.admin
        )
        for component, pair in users.items():
            with_certificate(
                layout.component_kubeconfig(component),
                name=context,
                server=server,
                authority=self.authority,
                pair=pair,
            )


def node_name(state: ClusterState) -> str:
    """Return the name of the cluster's one node."""
    return f"nascale-{state.name}"


def inherited_environment(layout: Layout) -> dict[str, str]:
    """Return what every process of the cluster finds in its environment."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in INHERITED or key.startswith(INHERITED_PREFIXES)
    }
    return {**kept, DIRECTORY_VARIABLE: str(layout.directory)}


class Components:
    """Builds the components of one cluster."""

    def __init__(
        self, layout: Layout, state: ClusterState, binaries: Binaries, credentials: Credentials
    ) -> None:
        """Take what the command lines are made of."""
        self._layout = layout
        self._state = state
        self._binaries = binaries
        self._credentials = credentials
        self._ports = state.ports
        self.admin = ApiServer(state.ports[API_SERVER], credentials.authority, pair=credentials.admin)

    def etcd(self) -> Component:
        """The data store; only who has a certificate of its own authority may talk to it."""
        credentials = self._credentials
        client = f"https://{LOOPBACK}:{self._ports['etcd']}"
        peer = f"https://{LOOPBACK}:{self._ports['etcd-peer']}"
        server, authority = credentials.store_server, credentials.store_authority
        flags = {
            "name": "default",
            "data-dir": self._layout.data(ETCD),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "cert-file": server.certificate,
            "key-file": server.key,
            "client-cert-auth": "true",
            "trusted-ca-file": authority,
            "peer-cert-file": server.certificate,
            "peer-key-file": server.key,
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": authority,
            # Survives the death of any process, which is what a development cluster needs; not a power cut.
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }
        probe = ApiServer(self._ports["etcd"], authority, pair=credentials.store_client)
        return Component(ETCD, self._argv(ETCD, flags), ready=lambda: probe.answers("/health"))

    def api_server(self) -> Component:
        """The API, with RBAC and the node authorizer, and every request in the audit log."""
        credentials = self._credentials
        policy = self._layout.directory / "audit-policy.yaml"
        if not policy.exists() or policy.read_text() != AUDIT_POLICY:
            policy.write_text(AUDIT_POLICY)
        flags = {
            "bind-address": LOOPBACK,
            "advertise-address": LOOPBACK,
            "secure-port": self._ports[API_SERVER],
            # The kubernetes Service would point at the loopback address, which endpoints may not hold.
            "endpoint-reconciler-type": "none",
            "etcd-servers": f"https://{LOOPBACK}:{self._ports['etcd']}",
            "etcd-cafile": credentials.store_authority,
            "etcd-certfile": credentials.store_client.certificate,
            "etcd-keyfile": credentials.store_client.key,
            "tls-cert-file": credentials.serving.certificate,
            "tls-private-key-file": credentials.serving.key,
            "client-ca-file": credentials.authority,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-cluster-ip-range": SERVICE_RANGE,
            "service-account-issuer": ISSUER,
            "service-account-key-file": credentials.account_public_key,
            "service-account-signing-key-file": credentials.account_key,
            "kubelet-client-certificate": credentials.kubelet_client.certificate,
            "kubelet-client-key": credentials.kubelet_client.key,
            "kubelet-preferred-address-types": "InternalIP",
            "audit-policy-file": policy,
            "audit-log-path": self._layout.audit_log,
            "audit-log-maxsize": 500,
            "audit-log-maxbackup": 1,
        }
        self._layout.audit_log.parent.mkdir(exist_ok=True)
        return Component(
            API_SERVER,
            self._argv(API_SERVER, flags),
            ready=lambda: self.admin.answers("/readyz"),
            inputs=(policy,),
        )

    def controller_manager(self) -> Component:
        """Kubernetes' own controllers, each with its own service account."""
        kubeconfig = self._layout.component_kubeconfig(CONTROLLER_MANAGER)
        flags = {
            **self._controller_flags(CONTROLLER_MANAGER, kubeconfig),
            "service-account-private-key-file": self._credentials.account_key,
            "root-ca-file": self._credentials.authority,
            "use-service-account-credentials": "true",
            # At the default rate (20 per second) making its own accounts alone takes 3 s.
            "kube-api-qps": 100,
            "kube-api-burst": 200,
        }
        probe = self._probe(CONTROLLER_MANAGER)

        def ready() -> bool:
            # Pods are refused until the controllers have made the namespace's service account.
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            return probe.answers("/healthz") and self.admin.answers(account)

        return Component(CONTROLLER_MANAGER, self._argv(CONTROLLER_MANAGER, flags), ready=ready)

    def scheduler(self) -> Component:
        """Kubernetes' scheduler."""
        flags = self._controller_flags(SCHEDULER, self._layout.component_kubeconfig(SCHEDULER))
        probe = self._probe(SCHEDULER)
        return Component(SCHEDULER, self._argv(SCHEDULER, flags), ready=lambda: probe.answers("/readyz"))

    def node(self, capacity: str) -> Component:
        """The node, which runs pods as processes of this machine."""
        name = node_name(self._state)
        flags = {
            "kubeconfig": self._layout.component_kubeconfig(NODE),
            "name": name,
            "state-dir": self._layout.data(NODE),
            "capacity": capacity,
            "pod-cidr": self._state.pod_range,
            # Beside the node's own folder: claims outlive the pods that `down` removes.
            "claims-dir": self._layout.data("claims"),
        }

        def ready() -> bool:
            try:
                found = self.admin.get(f"/api/v1/nodes/{name}")
            except OSError:
                return False
            conditions = (found or {}).get("status", {}).get("conditions") or []
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

        return Component(NODE, self._python("nascale.local.node", flags), ready=ready)

    def prometheus(self) -> Component:
        """Prometheus, which finds pods by itself."""
        port = self._ports[PROMETHEUS]
        flags = {
            "config.file": self._layout.prometheus_config,
            "storage.tsdb.path": self._layout.data(PROMETHEUS),
            "web.listen-address": f"{LOOPBACK}:{port}",
            # New pods are scraped at once: the default waits up to 5 s, longer than many trials last.
            "scrape.discovery-reload-interval": "100ms",
        }
        return Component(
            PROMETHEUS,
            self._argv(PROMETHEUS, flags),
            ready=lambda: http_answers(port, "/-/ready"),
            inputs=(self._layout.prometheus_config,),
        )

    def operator(self) -> Component:
        """The operator, with no rights but its own service account's."""
        port = self._ports[OPERATOR_METRICS]
        environment = {
            "KUBECONFIG": str(self._layout.operator_kubeconfig),
            "NASCALE_OPERATOR_PORT": str(port),
            "NASCALE_BIND_ADDRESS": LOOPBACK,
        }
        if self._state.options.prometheus:
            environment["NASCALE_PROMETHEUS_URL"] = f"http://{LOOPBACK}:{self._ports[PROMETHEUS]}"
        environment |= self._state.options.operator_environment
        return Component(
            OPERATOR,
            self._python("nascale.handlers.run", {}),
            ready=lambda: http_answers(port, "/readyz"),
            environment={**environment, "PYTHONUNBUFFERED": "1"},
            inputs=(self._layout.operator_kubeconfig,),
        )

    def _controller_flags(self, component: str, kubeconfig: Path) -> dict[str, object]:
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": LOOPBACK,
            "secure-port": self._ports[component],
            "tls-cert-file": self._credentials.serving.certificate,
            "tls-private-key-file": self._credentials.serving.key,
            "leader-elect": "false",
        }

    def _probe(self, component: str) -> ApiServer:
        return ApiServer(self._ports[component], self._credentials.authority, pair=self._credentials.admin)

    def _argv(self, program: str, flags: Mapping[str, object]) -> tuple[str, ...]:
        return (str(self._binaries[program]), *(f"--{name}={value}" for name, value in flags.items()))

    def _python(self, module: str, flags: Mapping[str, object]) -> tuple[str, ...]:
        # -P: the working folder holds data, no modules.
        return (sys.executable, "-P", "-m", module, *(f"--{name}={value}" for name, value in flags.items()))
