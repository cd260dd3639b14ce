"""The operator as a process of the embedded cluster, under the rights that it has in a real one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import yaml

import nascale
from nascale.local import access
from nascale.local.api_server import ApiServer
from nascale.local.certificates import LOOPBACK
from nascale.local.errors import SourceError
from nascale.local.kubeconfig import with_token
from nascale.local.layout import ClusterState, Layout

ACCOUNT: Final = "nascale-operator"
SOURCE_VARIABLE: Final = "NASCALE_SOURCE"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVED_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


def source_directory() -> Path:
    """Return the checkout with ``crds/`` and ``charts/``: ``$NASCALE_SOURCE``, else where this package lies.

    Raises:
        SourceError: the package is installed without a checkout, and the variable is not set.
    """
    own = os.environ.get(SOURCE_VARIABLE)
    root = Path(own).expanduser().absolute() if own else Path(nascale.__file__).resolve().parents[2]
    if not (root / "charts" / "nascale").is_dir() or not (root / "crds").is_dir():
        raise SourceError(
            f"{SOURCE_VARIABLE} must name a checkout of nascale that holds crds/ and charts/; {root} does not"
        )
    return root


def operator_rules(source: Path) -> list[dict[str, Any]]:
    """Read the operator's rights: the same list that the chart's role is made of."""
    path = source / "charts" / "nascale" / "files" / "operator-rules.yaml"
    rules = yaml.safe_load(path.read_text())
    if not isinstance(rules, list) or not rules:
        raise SourceError(f"{path} must hold a list of at least one RBAC rule")
    return rules


def apply_crds(api: ApiServer, source: Path) -> None:
    """Apply all CRDs of the checkout, and wait until the API serves them.

    Raises:
        SourceError: there is none, or the API does not serve one of them.
        ApiError: the API server refused one.
    """
    documents = [
        document for path in sorted((source / "crds").glob("*.yaml")) for document in _documents(path)
    ]
    if not documents:
        raise SourceError(f"{source / 'crds'} must hold at least one CRD")
    for document in documents:
        api.apply(CRDS, document)
    deadline = time.monotonic() + SERVED_SECONDS
    for name in [document["metadata"]["name"] for document in documents]:
        while not _is_served(api.get(f"{CRDS}/{name}")):
            if time.monotonic() > deadline:
                raise SourceError(
                    f"the API does not serve {name} {SERVED_SECONDS:.0f} s after it was applied"
                )
            time.sleep(POLL_SECONDS)


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _is_served(crd: dict[str, Any] | None) -> bool:
    conditions = (crd or {}).get("status", {}).get("conditions") or []  # null in a new one
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def install(api: ApiServer, layout: Layout, state: ClusterState) -> None:
    """Bring the CRDs, the operator's account with its rights, and a kubeconfig with its token alone.

    Does again only what is missing or differs, so it also repairs.
    """
    source = source_directory()
    apply_crds(api, source)
    access.apply_all(api, account_manifests(operator_rules(source)))
    with_token(
        layout.operator_kubeconfig,
        name=f"nascale-{state.name}",
        server=f"https://{LOOPBACK}:{state.ports['kube-apiserver']}",
        authority=layout.pki / "ca.crt",
        token=access.current_token(api, ACCOUNT, _token(layout.operator_kubeconfig)),
        namespace=access.SYSTEM_NAMESPACE,
    )


def account_manifests(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return namespace, account, role and binding of the operator."""
    return access.account(ACCOUNT, role=ACCOUNT, rules=rules, labels={"app.kubernetes.io/name": "nascale"})


def _token(kubeconfig: Path) -> str | None:
    """Return the token in the operator's kubeconfig; None before there is one."""
    if not kubeconfig.exists():
        return None
    return str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"])
