"""Accounts and rights as manifests, and server-side apply: what is missing is made, what differs repaired."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from nascale.local.api_server import ApiServer

Manifest = dict[str, Any]

SYSTEM_NAMESPACE: Final = "nascale-system"
"""Where the accounts of the operator and of the cluster's own processes are."""
TOKEN_SECONDS: Final = 365 * 24 * 3600
"""A development cluster's token; ``up`` mints a new one when this one is no longer taken."""

_GROUP: Final = "rbac.authorization.k8s.io"
_VERSION: Final = f"{_GROUP}/v1"
_COLLECTIONS: Final = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/serviceaccounts",
    "ClusterRole": f"/apis/{_VERSION}/clusterroles",
    "ClusterRoleBinding": f"/apis/{_VERSION}/clusterrolebindings",
}


def account(name: str, *, role: str, rules: Sequence[Manifest], labels: dict[str, str]) -> list[Manifest]:
    """Return namespace, service account, cluster role and binding, in the order of applying them.

    Args:
        name: The service account's name.
        role: Name of the cluster role and of its binding.
        rules: Exactly what the account may do, in all namespaces.
        labels: Labels of account, role and binding.
    """
    subject = {"kind": "ServiceAccount", "name": name, "namespace": SYSTEM_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE, "labels": labels},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": _VERSION,
            "kind": "ClusterRole",
            "metadata": {"name": role, "labels": labels},
            "rules": list(rules),
        },
        binding(role, role=role, subject=subject, labels=labels),
    ]


def binding(name: str, *, role: str, subject: Manifest, labels: dict[str, str]) -> Manifest:
    """Return the binding that gives one subject a cluster role, in all namespaces."""
    return {
        "apiVersion": _VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": labels},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def user(name: str) -> Manifest:
    """Return a user, as certificates name one, as a subject of bindings."""
    return {"apiGroup": _GROUP, "kind": "User", "name": name}


def apply_all(api: ApiServer, manifests: Iterable[Manifest]) -> None:
    """Apply manifests of the kinds that this module makes, in their order."""
    for manifest in manifests:
        api.apply(_COLLECTIONS[manifest["kind"]], manifest)
