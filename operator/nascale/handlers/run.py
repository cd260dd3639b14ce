"""``nascale-operator``: runs the operator until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn, cast

import kopf

import nascale
from nascale.cluster.connection import Connection, ConnectionSettingsError
from nascale.handlers.operation import Operation
from nascale.handlers.settings import Settings, SettingsError, read_settings
from nascale.handlers.watches import make_registry

logger = logging.getLogger(__name__)

EXIT_MISCONFIGURED: Final = 2
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run the operator as its environment says; exit 2 where that can't be done."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        _refuse(*error.faults)
    connection = Connection(settings.kubeconfig, settings.service_account_directory)
    try:
        asyncio.run(connection.reload())
    except ConnectionSettingsError as error:
        _refuse(str(error))
    _log_as(settings)
    logger.info("nascale operator %s, API server %s", nascale.__version__, connection.server)
    asyncio.run(_operate(settings, connection))


async def _operate(settings: Settings, connection: Connection) -> None:
    operation = Operation(settings, connection)
    try:
        await operation.serve()
    except OSError as error:
        _refuse(
            "NASCALE_BIND_ADDRESS, NASCALE_OPERATOR_PORT: must be an address and port that can be bound, not "
            f"{settings.bind_address!r} and {settings.port}: {error.strerror}"
        )
    if not await _has_taken_the_lead(operation):
        return
    try:
        await kopf.operator(
            registry=make_registry(operation, connection),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            # Without one kopf asks for the user's name, and in a pod there is none. No peer reads it.
            identity=cast("Any", socket.gethostname()),
        )
    finally:
        await operation.give_up_the_lead()


async def _has_taken_the_lead(operation: Operation) -> bool:
    """Wait for the lead; false where the process is told to end meanwhile. Later kopf takes the signals."""
    loop = asyncio.get_running_loop()
    taking = loop.create_task(operation.take_the_lead())
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, taking.cancel)
    await asyncio.wait([taking])
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
    if taking.cancelled():
        await operation.stop()
        await operation.give_up_the_lead()
        return False
    taking.result()
    return True


def _log_as(settings: Settings) -> None:
    log_format = kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL
    kopf.configure(verbose=settings.verbose, log_format=log_format)
    # They log every event and every login, which is their work and not news.
    for chatty in ("kopf.objects", "kopf.activities", "kopf._core.engines.activities", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if settings.verbose else logging.WARNING)


def _refuse(*faults: str) -> NoReturn:
    for fault in faults:
        print(f"nascale-operator: {fault}", file=sys.stderr)  # noqa: T201 - before logging is set up
    raise SystemExit(EXIT_MISCONFIGURED)


if __name__ == "__main__":
    main()
