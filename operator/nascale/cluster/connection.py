"""How to reach the API server: a kubeconfig, or the service account of the operator's pod."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes.aio import client, config
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader

import nascale

DEFAULT_SERVICE_ACCOUNT_DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
USER_AGENT: Final = f"nascale-operator/{nascale.__version__}"


class ConnectionSettingsError(Exception):
    """Neither a usable kubeconfig nor a service account; the message says what was looked for."""


@dataclass(frozen=True)
class Credentials:
    """What another HTTP client needs to speak to the same API server as the same user."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    scheme: str | None
    token: str | None
    insecure: bool


class Connection:
    """The way to the API server; ``reload`` reads files and runs credential plug-ins anew.

    Args:
        kubeconfig: Path or paths as in ``KUBECONFIG``; empty: the pod's service account, else
            ``~/.kube/config``.
        service_account_directory: Folder with ``token`` and ``ca.crt``.
        environment: Where ``KUBERNETES_SERVICE_HOST`` is looked up.
    """

    def __init__(
        self,
        kubeconfig: str = "",
        service_account_directory: Path = DEFAULT_SERVICE_ACCOUNT_DIRECTORY,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._directory = service_account_directory
        self._environment = environment
        self._configuration = client.Configuration()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._configuration.host)

    async def reload(self) -> None:
        """Read the credentials (again).

        Raises:
            ConnectionSettingsError: there are none, or they can't be read.
        """
        fresh = client.Configuration()
        # The API server is spoken to directly, as by the watches; a proxy for the outside is not for it.
        fresh.client_session_kwargs = {"trust_env": False}
        try:
            if self._kubeconfig or not self._in_cluster():
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=self._kubeconfig_path(), client_configuration=fresh, persist_config=False
                )
            else:
                self._load_service_account(fresh)
        except (config.ConfigException, OSError, KeyError, ValueError) as error:
            raise ConnectionSettingsError(f"no way to the API server: {error}") from error
        self._configuration = fresh

    def api_client(self) -> client.ApiClient:
        """Return a new HTTP client with the present credentials; the caller closes it."""
        api = client.ApiClient(self._configuration)
        api.user_agent = USER_AGENT
        return api

    async def credentials(self) -> Credentials:
        """Return the present credentials in a form that other HTTP clients take."""
        found = self._configuration
        header = await found.get_api_key_with_prefix("BearerToken", alias="authorization")
        scheme, _, token = (header or "").rpartition(" ")
        return Credentials(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            scheme=scheme.capitalize() or ("Bearer" if token else None),
            token=token or None,
            insecure=not found.verify_ssl,
        )

    def _in_cluster(self) -> bool:
        return bool(self._environment.get(SERVICE_HOST_ENV_NAME)) and (self._directory / "token").is_file()

    def _load_service_account(self, configuration: Any) -> None:
        loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]
            token_filename=str(self._directory / "token"),
            cert_filename=str(self._directory / "ca.crt"),
            environ=self._environment,
        )
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]

    def _kubeconfig_path(self) -> str:
        path = self._kubeconfig or str(Path("~/.kube/config").expanduser())
        if not any(Path(part).is_file() for part in path.split(os.pathsep)):
            raise config.ConfigException(
                f"KUBECONFIG: must be a readable kubeconfig, not {path!r}; and there is no service account "
                f"in {self._directory} with {SERVICE_HOST_ENV_NAME} set"
            )
        return path
