"""kopf's part: it keeps the watches alive and hands us their events. Nothing of it writes.

Only ``on.event`` handlers: they are level-triggered, keep no state, and put neither finalizers nor
annotations on any object.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import kopf

from nascale.api import names
from nascale.cluster.connection import USER_AGENT, Connection
from nascale.cluster.resources import WATCHED, Resource
from nascale.handlers.operation import Operation

TOKEN_LIFETIME: Final = timedelta(minutes=10)
"""Service account tokens are replaced within the hour: read the file anew well before that."""


class EndlessBackoff:
    """Pauses between attempts of a listing or watch, in seconds: short ones first, then 10 s for ever.

    kopf gives up, and the process ends, when the pauses are used up; a control plane may be away for longer.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield the pauses."""
        yield from (0.2, 0.5, 1.0, 2.0, 5.0)
        while True:
            yield 10.0


def make_registry(operation: Operation, connection: Connection) -> kopf.OperatorRegistry:
    """Return the handlers of an operation."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return await _log_in(connection)

    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        adjust(settings)
        await operation.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operation.stop()

    for resource in WATCHED:
        _watch(registry, operation, resource)
    return registry


async def _log_in(connection: Connection) -> kopf.AiohttpSession:
    """Open a session with fresh credentials, under our own name in the API server's audit log."""
    await connection.reload()
    credentials = await connection.credentials()
    info = kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.private_key_path,
        scheme=credentials.scheme,
        token=credentials.token,
        insecure=credentials.insecure,
    )
    # Each watch keeps its connection; a limit would silently starve the last ones.
    connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
    headers = {**info.as_http_headers(), "User-Agent": USER_AGENT}
    return kopf.AiohttpSession(
        server=credentials.server,
        aiohttp_session=aiohttp.ClientSession(connector=connector, headers=headers),
        expiration=datetime.now(UTC) + TOKEN_LIFETIME if credentials.token else None,
    )


def _watch(registry: kopf.OperatorRegistry, operation: Operation, resource: Resource) -> None:
    @kopf.on.event(
        resource.group, resource.version, resource.plural, registry=registry, id=f"take-{resource.plural}"
    )
    async def take(event: Any, **_: Any) -> None:
        operation.take_event(resource, event)


def adjust(settings: kopf.OperatorSettings) -> None:
    """Set kopf up as a plain watcher."""
    # Reconnect before load balancers and servers drop silent connections; stalled ones are noticed by
    # missing bookmarks (inactivity_timeout, 70 s by default).
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = EndlessBackoff()
    settings.posting.enabled = False
    # The kinds are known and their presence was checked; scanning would need rights on all CRDs.
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 30
    # Never used, as no handler keeps state; if one ever does, it must do so under our own name.
    settings.persistence.finalizer = f"{names.GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP)
    for resource in WATCHED:
        if resource.label_selector:
            key = (resource.group, resource.version, resource.plural)
            settings.watching.label_selectors[key] = resource.label_selector
