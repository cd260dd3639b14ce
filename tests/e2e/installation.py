"""The chart's release on a real node: what tests ask of it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.real_node import RealNode

from nascale.local.instance import LocalCluster

Json = dict[str, Any]
T = TypeVar("T")

RELEASE: Final = "nascale"
SYSTEM: Final = "nascale-system"
TEAM: Final = "vision"
"""The namespace of searches, sweeps and trainings."""
METRICS_SERVICE: Final = f"{RELEASE}-metrics"
METRICS_PORT: Final = 9465
ACCOUNT: Final = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
POLL_SECONDS: Final = 0.5
INSTALL_ATTEMPTS: Final = 4
SERVER_GAVE_UP: Final = "request did not complete within requested timeout"


@dataclass(frozen=True)
class Installation:
    """A cluster with two real nodes, and the operator as people install it."""

    cluster: LocalCluster
    node: RealNode
    second: RealNode
    helm_program: Path
    images: Mapping[str, Path]
    """Archive of each image that was built, by its name."""

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it prints."""
        done = self.try_helm(*arguments)
        assert done.returncode == 0, f"helm {arguments[0]}: {done.stdout}{done.stderr}\n{self.report()}"
        return done.stdout

    def try_helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run helm, which may fail."""
        command = [str(self.helm_program), f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={SYSTEM}"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    def install(self, chart: Path, values: Path) -> None:
        """Install the chart and wait until the operator is ready.

        A crowded machine's API server gives up on a CRD after 34 s, most of them spent on its rules.
        """
        arguments = (
            "upgrade",
            "--install",
            RELEASE,
            str(chart),
            f"--values={values}",
            "--wait",
            "--timeout=9m",
        )
        for _ in range(INSTALL_ATTEMPTS - 1):
            try:
                self.helm(*arguments)
            except AssertionError as error:
                if SERVER_GAVE_UP not in str(error):
                    raise
            else:
                return
        self.helm(*arguments)

    def kubectl(self, *arguments: str, stdin: Json | None = None) -> str:
        """Run kubectl as the administrator, in the team's namespace unless the arguments name another one."""
        text = None if stdin is None else json.dumps(stdin)
        place = () if "-n" in arguments or "-A" in arguments else ("-n", TEAM)
        return self.cluster.kubectl(*place, *arguments, stdin=text)

    def get(self, kind: str, name: str, namespace: str = TEAM) -> Json:
        """Return one object."""
        found: Json = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def items(self, kind: str, selector: str = "", namespace: str = TEAM) -> list[Json]:
        """Return the objects of a kind, by their labels."""
        text = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        found: list[Json] = json.loads(text)["items"]
        return found

    def apply(self, *documents: Json) -> None:
        """Create or change objects in the team's namespace."""
        for document in documents:
            self.kubectl("apply", "--server-side", "-f", "-", stdin=document)

    def wait_until(self, what: str, probe: Callable[[], T | None], seconds: float) -> T:
        """Return the first true answer.

        Raises:
            AssertionError: there was none in time; the message says how the cluster is.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := probe():
                return found
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{what}: did not happen within {seconds:.0f} s\n{self.report()}")

    def wait_for_end(self, kind: str, name: str, seconds: float) -> Json:
        """Return a search, sweep or training that has succeeded."""

        def ended() -> Json | None:
            found = self.get(kind, name)
            assert not holds(found, "Failed"), f"{json.dumps(found['status'], indent=1)}\n{self.report()}"
            return found if holds(found, "Succeeded") else None

        return self.wait_until(f"{kind} {name} succeeds", ended, seconds)

    def query(self, expression: str) -> list[Json]:
        """Ask the cluster's Prometheus."""
        url = f"{self.cluster.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http to this machine
            found: list[Json] = json.load(answer)["data"]["result"]
        return found

    def service(self, name: str, namespace: str) -> str:
        """Return the address of a Service; "": there is none."""
        address = "-o=jsonpath={.spec.clusterIP}"
        return self.cluster.kubectl("get", "service", name, "-n", namespace, address, check=False)

    def metrics_endpoint(self) -> tuple[str, int]:
        """Return where the operator's Service leads to.

        Raises:
            OSError: to nobody.
        """
        slices = self.items("endpointslices", f"kubernetes.io/service-name={METRICS_SERVICE}", SYSTEM)
        for found in slices:
            for endpoint in found.get("endpoints") or ():
                if endpoint["conditions"].get("ready"):
                    return endpoint["addresses"][0], found["ports"][0]["port"]
        raise ConnectionRefusedError(f"{METRICS_SERVICE} has no endpoint that is ready")

    def leader(self) -> str:
        """Return the pod whose operator works now; "" between two."""
        spec = self.get("lease", RELEASE, SYSTEM)["spec"]
        return str(spec.get("holderIdentity") or "").partition("_")[0]

    def report(self) -> str:
        """Say how the cluster is, for whoever reads a failure."""
        commands = (
            ("get", "nas,sweep,ptrain,trials,jobs,pods,pvc", "-A", "-o", "wide"),
            ("get", "events", "-A", "--sort-by=.lastTimestamp"),
            ("logs", "-n", SYSTEM, f"deployment/{RELEASE}", "--tail=40"),
        )
        return "\n".join(
            "\n".join(self.cluster.kubectl(*command, check=False).splitlines()[-60:]) for command in commands
        )


def condition(found: Mapping[str, Any], kind: str) -> Json:
    """Return an object's condition; empty: it has none of this type."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def holds(found: Mapping[str, Any], kind: str) -> bool:
    """Say whether an object's condition is true."""
    return condition(found, kind).get("status") == "True"
