"""Startup, liveness and readiness probes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from nascale.local.node.environment import Invocation
from nascale.local.node.errors import StartRefusedError

HEALTHY_STATUS: Final = range(200, 400)
MAX_OUTPUT: Final = 1024


@dataclass(frozen=True)
class ProbeResult:
    """One answer."""

    healthy: bool
    message: str = ""


Check = Callable[[], Awaitable[ProbeResult]]


def make_check(
    probe: Mapping[str, Any], container: Mapping[str, Any], address: str, invocation: Invocation
) -> Check:
    """Return the function that asks once.

    Args:
        probe: The probe of the container's spec.
        container: The container, for its named ports.
        address: The pod's address: where a probe without a host asks.
        invocation: The container's own, for the environment and folder of exec probes. ``arguments`` are the
            probe's command, already in terms of this machine.

    Raises:
        StartRefusedError: the probe is of a kind that this node does not have.
    """
    seconds = float(probe.get("timeoutSeconds") or 1)
    if "httpGet" in probe:
        request = probe["httpGet"]
        port = _port(request["port"], container)
        scheme = (request.get("scheme") or "HTTP").lower()
        path = (request.get("path") or "/").lstrip("/")
        url = f"{scheme}://{request.get('host') or address}:{port}/{path}"
        headers = {header["name"]: header["value"] for header in request.get("httpHeaders") or []}
        return lambda: _http(url, headers, seconds)
    if "tcpSocket" in probe:
        socket = probe["tcpSocket"]
        host, port = socket.get("host") or address, _port(socket["port"], container)
        return lambda: _tcp(host, port, seconds)
    if "exec" in probe:
        return lambda: _exec(invocation, seconds)
    raise StartRefusedError(
        f"containers[{container['name']}]: probes must be httpGet, tcpSocket or exec here"
    )


async def watch(
    probe: Mapping[str, Any],
    check: Check,
    on_change: Callable[[ProbeResult], bool],
    *,
    initially: bool | None,
) -> None:
    """Ask again and again; call ``on_change`` at each turn of the answer, until it returns False.

    A turn is as many equal answers in a row as the probe's thresholds say.

    Args:
        probe: Delay, period and thresholds.
        check: Asks once.
        on_change: Told the new answer; returns whether to go on.
        initially: The answer that holds before the first turn; None where either answer is a turn.
    """
    period = float(probe.get("periodSeconds") or 10)
    thresholds = {
        True: int(probe.get("successThreshold") or 1),
        False: int(probe.get("failureThreshold") or 3),
    }
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    current = initially
    row = 0
    last: bool | None = None
    while True:
        result = await check()
        row = row + 1 if result.healthy == last else 1
        last = result.healthy
        if result.healthy != current and row >= thresholds[result.healthy]:
            current = result.healthy
            if not on_change(result):
                return
        await asyncio.sleep(period)


def _port(value: str | int, container: Mapping[str, Any]) -> int:
    if isinstance(value, int) or value.isdigit():
        return int(value)
    for port in container.get("ports") or []:
        if port.get("name") == value:
            return int(port["containerPort"])
    raise StartRefusedError(
        f"containers[{container['name']}]: probe port {value!r} must name one of its ports"
    )


async def _http(url: str, headers: Mapping[str, str], seconds: float) -> ProbeResult:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            # A kubelet does not verify certificates of probed servers either.
            session.get(url, headers=headers, ssl=False, allow_redirects=False) as response,
        ):
            healthy = response.status in HEALTHY_STATUS
            return ProbeResult(healthy, f"HTTP probe failed with statuscode: {response.status}")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return ProbeResult(healthy=False, message=f'Get "{url}": {error or type(error).__name__}')


async def _tcp(host: str, port: int, seconds: float) -> ProbeResult:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError) as error:
        return ProbeResult(healthy=False, message=f"dial tcp {host}:{port}: {error or type(error).__name__}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ProbeResult(healthy=True)


async def _exec(invocation: Invocation, seconds: float) -> ProbeResult:
    try:
        process = await asyncio.create_subprocess_exec(
            *invocation.arguments,
            env=dict(invocation.environment),
            cwd=invocation.working_directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return ProbeResult(healthy=False, message=f"command error: {error}")
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        output = b"command timed out"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return ProbeResult(healthy=False, message=output.decode())
    return ProbeResult(process.returncode == 0, output[:MAX_OUTPUT].decode(errors="replace"))
