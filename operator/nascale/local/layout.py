"""The folder of one embedded cluster, and the document that says what it is made of."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator

from nascale.local.certificates import write_private
from nascale.local.node.settings import parse_capacity
from nascale.local.processes import ProcessIdentity

DEFAULT_SCRAPE_SECONDS: Final = 1.0
"""Trials of a demo last seconds: a usual interval of 15 s or more would miss most of what they export."""
SHORTEST_SCRAPE_SECONDS: Final = 0.1
LONGEST_SCRAPE_SECONDS: Final = 3600.0


class ClusterOptions(BaseModel):
    """What a cluster is asked to be. ``up`` without an option keeps what was asked before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: bool = True
    """Whether a node runs pods. Without one the API is complete, but every pod stays pending."""
    prometheus: bool = True
    operator: bool = False
    operator_environment: dict[str, str] = {}
    """Settings of the operator beside those that the cluster gives it, as in ``NASCALE_WORKERS``."""
    capacity: str = ""
    """The node's resources, as in ``cpu=2,memory=8Gi,nvidia.com/gpu=1``; empty: this machine's."""
    scrape_seconds: float = DEFAULT_SCRAPE_SECONDS
    """Time between two scrapes of one target, 0.1 to 3600."""

    @field_validator("scrape_seconds")
    @classmethod
    def _interval_is_sensible(cls, value: float) -> float:
        if not SHORTEST_SCRAPE_SECONDS <= value <= LONGEST_SCRAPE_SECONDS:
            allowed = f"from {SHORTEST_SCRAPE_SECONDS:g} to {LONGEST_SCRAPE_SECONDS:g}"
            raise ValueError(f"scrape interval: must be {allowed} seconds, not {value:g}")
        return value

    @field_validator("capacity")
    @classmethod
    def _capacity_is_readable(cls, value: str) -> str:
        if value:
            parse_capacity(value)
        return value


class ProcessRecord(BaseModel):
    """One process that ``up`` started and ``down`` has not stopped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: ProcessIdentity | None
    """None: it ended before it could be looked at."""
    revision: str
    """Digest of what it was started with: another one means that it must be restarted."""
    started: dt.datetime


class ClusterState(BaseModel):
    """The state file of one cluster. Written whole after each change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: str
    ports: dict[str, int]
    pod_range: str
    """Where pods' addresses come from: a part of 127.0.0.0/8 that no other cluster of this machine uses."""
    options: ClusterOptions = ClusterOptions()
    processes: dict[str, ProcessRecord] = {}


@dataclass(frozen=True)
class Layout:
    """Paths in a cluster's folder."""

    directory: Path

    @property
    def state_file(self) -> Path:
        """The document of ``ClusterState``."""
        return self.directory / "state.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig.yaml"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    @property
    def audit_log(self) -> Path:
        """One JSON document per request to the API server, at the level Metadata."""
        return self.directory / "audit" / "audit.log"

    @property
    def prometheus_config(self) -> Path:
        """Prometheus' configuration."""
        return self.directory / "prometheus.yaml"

    @property
    def prometheus_token(self) -> Path:
        """The token with which Prometheus finds pods."""
        return self.directory / "kubeconfigs" / "prometheus.token"

    @property
    def operator_kubeconfig(self) -> Path:
        """The kubeconfig that holds the operator's token and nothing else."""
        return self.component_kubeconfig("operator")

    def component_kubeconfig(self, component: str) -> Path:
        """Return the path of a component's own kubeconfig."""
        return self.directory / "kubeconfigs" / f"{component}.yaml"

    def data(self, component: str) -> Path:
        """Return the folder of a component's data."""
        return self.directory / component

    def log(self, component: str) -> Path:
        """Return the path of a component's output."""
        return self.directory / "logs" / f"{component}.log"

    def record(self, component: str) -> Path:
        """Return the stem of a component's pid and exit files."""
        return self.directory / "run" / component

    def read_state(self) -> ClusterState | None:
        """Return the cluster's state; None if there is no such cluster."""
        try:
            content = self.state_file.read_text()
        except FileNotFoundError:
            return None
        return ClusterState.model_validate_json(content)

    def write_state(self, state: ClusterState) -> None:
        """Replace the state file."""
        write_private(self.state_file, (state.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def all_below(cls, root: Path) -> list[Self]:
        """Return the layouts of all clusters whose folders lie in ``root``."""
        return sorted(
            (cls(path.parent) for path in root.glob("*/state.json")), key=lambda found: found.directory
        )
