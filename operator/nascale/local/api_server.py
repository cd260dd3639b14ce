"""Plain requests to the embedded cluster's own servers: is it ready, apply this object, mint a token.

The operator's client is in ``nascale.cluster``; what a starting cluster needs before any operator runs is a
handful of requests without watches, retries or models.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nascale.local.certificates import LOOPBACK, KeyPair
from nascale.local.errors import ApiError

TIMEOUT_SECONDS: Final = 10.0
FIELD_MANAGER: Final = "nascale-local"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    body: str

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's class of success


class ApiServer:
    """Requests to one HTTPS server on the loopback address, with a client certificate or a token."""

    def __init__(
        self, port: int, authority: Path, *, pair: KeyPair | None = None, token: str | None = None
    ) -> None:
        """Talk to ``port``; its certificate must be signed by ``authority``."""
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority))
        if pair is not None:
            self._context.load_cert_chain(pair.certificate, pair.key)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Answer:
        """Send one request.

        Raises:
            OSError: nobody answers.
        """
        connection = http.client.HTTPSConnection(
            LOOPBACK, self._port, context=self._context, timeout=TIMEOUT_SECONDS
        )
        try:
            content = None if body is None else json.dumps(body)
            headers = {**self._headers, "Content-Type": content_type, "Accept": "application/json"}
            connection.request(method, path, body=content, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path} on port {self._port}: {error!r}") from error
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Whether a GET of ``path`` succeeds now."""
        try:
            return self.request("GET", path).ok
        except OSError:
            return False

    def get(self, path: str) -> dict[str, Any] | None:
        """Return the object at ``path``; None if there is none.

        Raises:
            ApiError: the server refused for another reason.
        """
        answer = self.request("GET", path)
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        return _object(answer, "GET", path)

    def apply(self, collection: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Create or change one object by server-side apply.

        Args:
            collection: Path of the collection, as in ``/api/v1/namespaces``.
            document: The object; ``metadata.name`` is its name.
        """
        name = document["metadata"]["name"]
        path = f"{collection}/{name}?fieldManager={FIELD_MANAGER}&force=true"
        answer = self.request("PATCH", path, document, content_type="application/apply-patch+yaml")
        return _object(answer, "PATCH", path)

    def create_token(self, namespace: str, account: str, *, seconds: int) -> str:
        """Mint a token for a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token = _object(self.request("POST", path, request), "POST", path)["status"]["token"]
        return str(token)


def http_answers(port: int, path: str) -> bool:
    """Whether a plain-HTTP GET on the loopback address succeeds now."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return response.status == http.HTTPStatus.OK
    finally:
        connection.close()


def _object(answer: Answer, method: str, path: str) -> dict[str, Any]:
    if not answer.ok:
        raise ApiError(method, path, answer.status, answer.body)
    document: dict[str, Any] = json.loads(answer.body)
    return document
