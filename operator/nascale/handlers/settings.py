"""Configuration of the operator's process, from its environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from nascale.cluster.connection import DEFAULT_SERVICE_ACCOUNT_DIRECTORY
from nascale.reconcile.observed import OperatorSettings

DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DEFAULT_PORT: Final = 9465
LOG_FORMATS: Final = ("text", "json")
QUERY_SCOPES: Final = ("Any", "Namespace")
NODE_READING: Final = ("Never", "Always")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")

T = TypeVar("T")


class SettingsError(Exception):
    """Settings that can't be used; each fault names variable, value and what is allowed."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class LeaseSettings:
    """Which Lease makes one of several replicas the active one.

    Attributes:
        namespace: Of the Lease.
        name: Its name.
        duration_seconds: How long the others wait for a holder that has fallen silent.
    """

    namespace: str
    name: str
    duration_seconds: int = 15


@dataclass(frozen=True)
class Settings:
    """How this process runs.

    Attributes:
        kubeconfig: ``KUBECONFIG``; empty: the pod's service account.
        service_account_directory: Folder of the service account's token.
        namespaces: Namespaces that are served; empty: all.
        prometheus_url: Base URL of Prometheus; empty: values come from reports alone.
        confined_queries: Whether the queries of an object may only read series of its namespace.
        series_seconds: Time between two looks at the series of a running training.
        bind_address: Where ``/metrics``, ``/healthz`` and ``/readyz`` are served.
        port: The same; 0 takes a free one.
        workers: Searches that are reconciled at the same time.
        lease: What the active one of several replicas holds; ``None``: this is the only one.
        log_format: ``text`` or ``json``.
        verbose: Whether to log debugging details.
        installation: What reconciles need to know.
    """

    kubeconfig: str = ""
    service_account_directory: Path = DEFAULT_SERVICE_ACCOUNT_DIRECTORY
    namespaces: tuple[str, ...] = ()
    prometheus_url: str = ""
    confined_queries: bool = False
    series_seconds: int = 5
    bind_address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 4
    lease: LeaseSettings | None = None
    log_format: str = "text"
    verbose: bool = False
    installation: OperatorSettings = field(default_factory=OperatorSettings)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings; unset and empty variables take their defaults.

    Raises:
        SettingsError: with every fault at once.
    """
    reader = _Reader(environment)
    defaults, installation = Settings(), OperatorSettings()
    prometheus_url = reader.take("NASCALE_PROMETHEUS_URL", _url, "")
    settings = Settings(
        kubeconfig=reader.take("KUBECONFIG", str, ""),
        service_account_directory=reader.take(
            "NASCALE_SERVICE_ACCOUNT_DIRECTORY", _absolute_path, defaults.service_account_directory
        ),
        namespaces=reader.take("NASCALE_NAMESPACES", _labels, ()),
        prometheus_url=prometheus_url,
        confined_queries=reader.take("NASCALE_QUERY_SCOPE", _one_of(QUERY_SCOPES), "Any") == "Namespace",
        series_seconds=reader.take("NASCALE_SERIES_SECONDS", _integer(1, 3600), defaults.series_seconds),
        bind_address=reader.take("NASCALE_BIND_ADDRESS", str, defaults.bind_address),
        port=reader.take("NASCALE_OPERATOR_PORT", _integer(0, 65_535), defaults.port),
        workers=reader.take("NASCALE_WORKERS", _integer(1, 64), defaults.workers),
        lease=_lease(reader),
        log_format=reader.take("NASCALE_LOG_FORMAT", _one_of(LOG_FORMATS), defaults.log_format),
        verbose=reader.take("NASCALE_LOG_LEVEL", _one_of(("info", "debug")), "info") == "debug",
        installation=OperatorSettings(
            trainer_image=reader.take("NASCALE_TRAINER_IMAGE", str, installation.trainer_image),
            trainer_command=reader.take("NASCALE_TRAINER_COMMAND", _command, installation.trainer_command),
            service_accounts=reader.take("NASCALE_TRIAL_SERVICE_ACCOUNTS", _labels, ()),
            prometheus=bool(prometheus_url),
            image_pull_policy=reader.take("NASCALE_TRAINER_IMAGE_PULL_POLICY", _one_of(PULL_POLICIES), None),
            job_ttl_seconds=reader.take(
                "NASCALE_JOB_TTL_SECONDS", _integer(0, 31_536_000), installation.job_ttl_seconds
            ),
            resync_seconds=reader.take(
                "NASCALE_RESYNC_SECONDS", _integer(1, 86_400), installation.resync_seconds
            ),
            reads_nodes=reader.take("NASCALE_READ_NODES", _one_of(NODE_READING), "Never") == "Always",
        ),
    )
    if reader.faults:
        raise SettingsError(tuple(reader.faults))
    return settings


def _lease(reader: _Reader) -> LeaseSettings | None:
    place = reader.take("NASCALE_LEASE", _namespaced_name, ("", ""))
    seconds = reader.take("NASCALE_LEASE_SECONDS", _integer(5, 300), LeaseSettings.duration_seconds)
    return LeaseSettings(*place, seconds) if all(place) else None


class _Reader:
    """Takes variables one by one and gathers what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.faults: list[str] = []

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._environment.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.faults.append(f"{name}: must be {error}, not {text!r}")
            return default


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def _labels(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(DNS_LABEL.fullmatch(part) for part in found):
        raise ValueError("a comma-separated list of names of lower-case letters, digits and '-'")
    return tuple(dict.fromkeys(found))


def _namespaced_name(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not slash or not DNS_LABEL.fullmatch(namespace) or not DNS_LABEL.fullmatch(name):
        raise ValueError("NAMESPACE/NAME of lower-case letters, digits and '-'")
    return namespace, name


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("a URL like http://prometheus:9090")
    return text


def _absolute_path(text: str) -> Path:
    if not Path(text).is_absolute():
        raise ValueError("an absolute path")
    return Path(text)


def _command(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise ValueError("a command line with balanced quotes") from None
