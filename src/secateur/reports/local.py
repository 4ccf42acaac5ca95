"""Who may ask a page that this machine serves to itself: only a browser that opened the page here.

A site that is open in the same browser can send requests to 127.0.0.1 too, and by DNS rebinding even read the answers.
Its requests carry its own name, in Host or in Origin, and are refused.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

REFUSAL = b"Refused: the page answers requests from itself alone; `secateur demo --host ADDRESS` serves others.\n"


class LocalRequests:
    """An ASGI application that passes on what `is_local`, and answers 403 to everything else."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_local(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})


def is_local(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request's Host is this machine's own and its Origin, where it has one, is the page itself."""
    given = [(name.decode("latin-1").lower(), value.decode("latin-1").strip().lower()) for name, value in headers]
    hosts, origins = ([value for key, value in given if key == name] for name in ("host", "origin"))
    try:
        names = [urlsplit(f"//{host}").hostname for host in hosts]
        sources = [urlsplit(origin).netloc for origin in origins]
    except ValueError:
        return False
    return len(names) == 1 and is_loopback(names[0] or "") and all(source == hosts[0] for source in sources)


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine's own, which no other machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
