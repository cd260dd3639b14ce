"""Accounts and rights as manifests, and server-side apply: what is missing is made, what differs repaired."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from nascale.local.api_server import ApiServer

Manifest = dict[str, Any]

SYSTEM_NAMESPACE: Final = "nascale-system"
"""Where the accounts of the operator and of the cluster's own processes are."""
TOKEN_SECONDS: Final = 365 * 24 * 3600
RENEWAL_SECONDS: Final = 30 * 24 * 3600
"""A token that ends sooner than this is replaced by the next ``up``."""

_GROUP: Final = "rbac.authorization.k8s.io"
_VERSION: Final = f"{_GROUP}/v1"
_COLLECTIONS: Final = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/serviceaccounts",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
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


def current_token(api: ApiServer, name: str, token: str | None) -> str:
    """Return ``token`` if it still belongs to the account ``name`` and lasts, else a new one.

    The token's claims are compared with the account. To ask the server would not do: it goes on to take the
    token of a deleted account for some seconds.
    """
    account = api.get(f"{_COLLECTIONS['ServiceAccount']}/{name}")
    if token is not None and account is not None:
        claims = _claims(token)
        lasts = claims.get("exp", 0) - time.time() > RENEWAL_SECONDS
        owner = claims.get("kubernetes.io", {}).get("serviceaccount", {}).get("uid")
        if lasts and owner == account["metadata"]["uid"]:
            return token
    return api.create_token(SYSTEM_NAMESPACE, name, seconds=TOKEN_SECONDS)


def _claims(token: str) -> Manifest:
    """Read a token that is ours; the server checks its signature, not we."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}
