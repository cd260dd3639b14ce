"""Answers the API server's questions for logs: what ``kubectl logs`` shows.

It speaks the part of a kubelet's HTTPS interface that the API server needs for that. Who asks must show a
certificate of the cluster's authority, and the API server is asked whether its owner may read logs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nascale.local.node.api import ApiClient, ApiError
from nascale.local.node.credentials import Credentials, load_pair
from nascale.local.node.pod import PodWorker
from nascale.local.node.settings import NodeSettings

logger = logging.getLogger(__name__)

FOLLOW_SECONDS: Final = 0.1
CHUNK_BYTES: Final = 1 << 16
TAIL_CHUNK_BYTES: Final = 1 << 14
PERMISSION_SECONDS: Final = 300.0
"""How long an answer of the API server about a user's rights is remembered."""
CERTIFICATE_DAYS: Final = 3650


class LogServer:
    """The HTTPS server."""

    def __init__(
        self,
        settings: NodeSettings,
        credentials: Credentials,
        client: ApiClient,
        find: Callable[[str, str], PodWorker | None],
    ) -> None:
        """Listen to nothing yet; ``find`` gets namespace and name of a pod."""
        self._settings = settings
        self._authority = credentials.authority
        self._client = client
        self._find = find
        self._permitted: dict[str, float] = {}
        self._runner: web.AppRunner | None = None
        self.port = settings.port

    async def __aenter__(self) -> Self:
        """Start to listen."""
        application = web.Application(middlewares=[self._authorize])
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/healthz", self._healthz)
        # A client that follows a log must not hold up the node's end.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, *self_signed(self._settings.name, self._settings.address))
        context.load_verify_locations(cadata=self._authority)
        context.verify_mode = ssl.CERT_REQUIRED
        site = web.TCPSite(self._runner, self._settings.address, self._settings.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _authorize(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Any],
    ) -> web.StreamResponse:
        user, groups = _identity(request)
        loop = asyncio.get_running_loop()
        if self._permitted.get(user, 0.0) < loop.time():
            if not await self._may_read_logs(user, groups):
                raise web.HTTPForbidden(text=f"user {user!r} must be allowed to get nodes/proxy\n")
            self._permitted[user] = loop.time() + PERMISSION_SECONDS
        response: web.StreamResponse = await handler(request)
        return response

    async def _may_read_logs(self, user: str, groups: list[str]) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user,
                "groups": groups,
                "resourceAttributes": {
                    "verb": "get",
                    "resource": "nodes",
                    "subresource": "proxy",
                    "name": self._settings.name,
                },
            },
        }
        try:
            answer = await self._client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("asking for the rights of %s: %s", user, error or type(error).__name__)
            return False
        return bool((answer.get("status") or {}).get("allowed"))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        worker = self._find(names["namespace"], names["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{names["pod"]}" is not on this node\n')
        record = worker.record.containers.get(names["container"])
        if record is None:
            raise web.HTTPNotFound(
                text=f'container "{names["container"]}" not found in pod "{names["pod"]}"\n'
            )
        query = request.query
        previous = query.get("previous") == "true"
        attempt = record.attempt - (1 if previous else 0)
        path = worker.directory.log(names["container"], attempt)
        # These look-ups take microseconds on the node's own disk: a thread would take longer.
        if not path.exists():
            which = "previous terminated container" if previous else "container"
            raise web.HTTPBadRequest(text=f'{which} "{names["container"]}" has not started\n')
        for field in ("timestamps", "sinceSeconds", "sinceTime"):
            if query.get(field) not in (None, "", "false"):
                raise web.HTTPBadRequest(text=f"{field}: must be absent: logs of this node carry no times\n")
        limit = int(query["limitBytes"]) if "limitBytes" in query else None
        end = worker.directory.exit_record(names["container"], attempt)
        follow = query.get("follow") == "true" and not previous

        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        async for chunk in read_log(path, tail=_whole(query.get("tailLines")), end=end if follow else None):
            taken = chunk if limit is None else chunk[:limit]
            await response.write(taken)
            if limit is not None:
                limit -= len(taken)
                if limit == 0:
                    break
        await response.write_eof()
        return response


async def read_log(path: Path, *, tail: int | None, end: Path | None) -> AsyncIterator[bytes]:
    """Yield a log's content.

    Args:
        path: The log.
        tail: Only the last so many lines; None for all.
        end: Where to follow the log: the file whose existence says that nothing more will come.
    """
    with path.open("rb") as stream:
        stream.seek(0 if tail is None else tail_offset(path, tail))
        while True:
            over = end is None or end.exists()  # noqa: ASYNC240  as above
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
            if over:
                return
            await asyncio.sleep(FOLLOW_SECONDS)
            if not path.exists():  # noqa: ASYNC240  as above
                return  # the pod was removed


def tail_offset(path: Path, lines: int) -> int:
    """Return where the last ``lines`` lines of a file begin."""
    with path.open("rb") as stream:
        position = stream.seek(0, 2)
        if lines == 0:
            return position
        # The newline that ends the last line does not begin another.
        wanted = lines + 1
        first = True
        while position > 0:
            start = max(0, position - TAIL_CHUNK_BYTES)
            stream.seek(start)
            chunk = stream.read(position - start)
            if first and not chunk.endswith(b"\n"):
                wanted -= 1
            first = False
            found = chunk.count(b"\n")
            if found >= wanted:
                index = len(chunk)
                for _ in range(wanted):
                    index = chunk.rindex(b"\n", 0, index)
                return start + index + 1
            wanted -= found
            position = start
    return 0


def self_signed(name: str, address: str) -> tuple[bytes, bytes]:
    """Return certificate and key for the server, as a kubelet makes them for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _identity(request: web.Request) -> tuple[str, list[str]]:
    """Return user and groups of the certificate that the caller showed."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    subject = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    user = next((value for kind, value in subject if kind == "commonName"), "")
    if not user:
        raise web.HTTPUnauthorized(text="a client certificate with a name must be shown\n")
    groups = [value for kind, value in subject if kind == "organizationName"]
    return user, [*groups, "system:authenticated"]


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise web.HTTPBadRequest(text=f"tailLines: must be a whole number from 0 on, not {text!r}\n")
    return int(text)
