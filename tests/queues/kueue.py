"""The real Kueue controller beside an embedded cluster, installed from its own chart."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.queues import certificates

from nascale.local import components as parts
from nascale.local import ports, processes
from nascale.local.api_server import http_answers
from nascale.local.binaries import ensure
from nascale.local.certificates import LOOPBACK
from nascale.local.instance import LocalCluster
from nascale.local.products import HELM, KUEUE

Json = dict[str, Any]

SYSTEM = "kueue-system"
WEBHOOK = "kueue-webhook-service"
CERTIFICATE = "kueue-webhook-server-cert"
START_SECONDS = 60
SERVED_GROUPS = {"batch", "kueue.x-k8s.io"}
"""Of its webhooks; those of other controllers' kinds have nothing to look at here."""


class Kueue:
    """Kueue for one cluster; its process ends with the cluster.

    Args:
        cluster: It must be up.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._folder = cluster.directory / "kueue"
        self._ports = ports.choose(["webhook", "health", "metrics"])

    def install(self) -> None:
        """Bring its kinds and webhooks to the cluster, start it, and wait until it is ready.

        Raises:
            TimeoutError: it was not ready in time; the message holds the end of its log.
        """
        program = ensure([KUEUE], report=print)["kueue"]
        chart = program.parent / "charts" / "kueue"
        if not chart.is_dir():
            raise FileNotFoundError(f"Kueue's chart must lie in {chart}, beside its program")
        self._folder.mkdir()
        certificates.write(self._folder, "kueue-ca", service=f"{WEBHOOK}.{SYSTEM}.svc", address=LOOPBACK)
        config = self._folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self._cluster.kubectl("create", "namespace", SYSTEM)
        self._apply(self._secret(), *self._manifests(chart))
        processes.spawn(
            [str(program), f"--config={config}", "--zap-log-level=2"],
            environment={
                **parts.inherited_environment(self._cluster.layout),
                "KUBECONFIG": str(self._cluster.kubeconfig),
            },
            directory=self._folder,
            log=self._log,
            record=self._cluster.layout.record("kueue"),
        )
        deadline = time.monotonic() + START_SECONDS
        while not http_answers(self._ports["health"], "/readyz"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kueue is not ready: {self._log.read_text()[-4000:]}")
            time.sleep(0.2)

    @property
    def _log(self) -> Path:
        return self._cluster.layout.log("kueue")

    def _apply(self, *documents: Json) -> None:
        # On the server: Kueue's kinds are larger than kubectl's annotation may be.
        text = yaml.safe_dump_all(documents)
        self._cluster.kubectl("apply", "--server-side", "-f", "-", stdin=text)

    def _secret(self) -> Json:
        """Return the secret in which Kueue looks for its certificate before it makes one."""
        files = {name: self._folder / name for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": CERTIFICATE, "namespace": SYSTEM},
            "data": {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()},
        }

    def _config(self) -> Json:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": SYSTEM,
            "health": {"healthProbeBindAddress": f"{LOOPBACK}:{self._ports['health']}"},
            "metrics": {"bindAddress": f"{LOOPBACK}:{self._ports['metrics']}"},
            "webhook": {
                "host": LOOPBACK,
                "port": self._ports["webhook"],
                "certDir": str(self._folder),
            },
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {
                "enable": True,
                "webhookServiceName": WEBHOOK,
                "webhookSecretName": CERTIFICATE,
            },
            # Its own API for pending workloads would need an address within the cluster.
            "featureGates": {"VisibilityOnDemand": False},
            "integrations": {"frameworks": ["batch/job"]},
            "fairSharing": {"preemptionStrategies": ["LessThanOrEqualToFinalShare", "LessThanInitialShare"]},
        }

    def _manifests(self, chart: Path) -> Iterator[Json]:
        """Give what its chart installs, as far as a process outside the cluster needs it."""
        helm = ensure([HELM], report=print)["helm"]
        rendered = subprocess.run(
            [str(helm), "template", "kueue", str(chart), "--namespace", SYSTEM],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for document in yaml.safe_load_all(rendered):
            if document is None:
                continue
            if document["kind"] == "CustomResourceDefinition":
                conversion = document["spec"].get("conversion")
                if conversion is not None:
                    self._redirect(conversion["webhook"])
                yield document
            elif document["kind"].endswith("WebhookConfiguration"):
                document["webhooks"] = [own for own in document["webhooks"] if _served(own)]
                for webhook in document["webhooks"]:
                    self._redirect(webhook)
                yield document

    def _redirect(self, webhook: Json) -> None:
        """Let the API server call the process by its port instead of a Service."""
        path = webhook["clientConfig"]["service"]["path"]
        authority = base64.b64encode((self._folder / "ca.crt").read_bytes()).decode()
        url = f"https://{LOOPBACK}:{self._ports['webhook']}{path}"
        webhook["clientConfig"] = {"url": url, "caBundle": authority}


def _served(webhook: Json) -> bool:
    return all(set(rule["apiGroups"]) <= SERVED_GROUPS for rule in webhook["rules"])


def flavor() -> Json:
    """Return the one kind of node there is."""
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "nodes"}}


def cluster_queue(name: str, cpu: int) -> Json:
    """Return a team's quota, which it gets back from those that have borrowed it, and which it lends."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": name},
        "spec": {
            "cohortName": "all",
            "namespaceSelector": {},
            "preemption": {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"},
            "resourceGroups": [
                {
                    "coveredResources": ["cpu"],
                    "flavors": [{"name": "nodes", "resources": [{"name": "cpu", "nominalQuota": cpu}]}],
                }
            ],
        },
    }


def local_queue(namespace: str, of: str) -> Json:
    """Return the queue of a namespace."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": "team", "namespace": namespace},
        "spec": {"clusterQueue": of},
    }
