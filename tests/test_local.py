"""Which requests the demo's page answers: its own, and those of no other site."""

import asyncio
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest
from conftest import MakeEncoder

from secateur.reports import demo
from secateur.reports.demo import Contender
from secateur.reports.local import LocalRequests, Message, is_local, is_loopback

OWN = "127.0.0.1:7860"


@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        (OWN, None, True),
        (OWN, f"http://{OWN}", True),
        ("localhost:9000", "http://localhost:9000", True),  # a forwarded port
        ("[::1]:7860", "http://[::1]:7860", True),
        ("LOCALHOST:7860", None, True),
        ("evil.example:7860", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("192.168.0.7:7860", None, False),
        ("localhost@evil.example", None, False),
        ("evil.example:7860", "http://evil.example:7860", False),  # DNS rebinding
        (OWN, "http://evil.example", False),
        (OWN, "http://localhost:3000", False),
        (OWN, "null", False),
        ("[::1", None, False),
        ("", None, False),
    ],
)
def test_only_the_page_itself_is_answered(host: str, origin: str | None, answered: bool) -> None:
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    assert is_local(headers) is answered


def test_a_request_without_host_or_with_two_is_refused() -> None:
    assert not is_local([])
    assert not is_local([(b"host", OWN.encode()), (b"host", b"evil.example")])


@pytest.mark.parametrize(("kind", "first"), [("http", "http.response.start"), ("websocket", "websocket.close")])
def test_a_refusal_never_reaches_the_page(kind: str, first: str) -> None:
    reached: list[str] = []
    said: list[Message] = []

    async def page(scope: Message, receive: object, send: object) -> None:
        reached.append(scope["type"])

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {}

    guarded = LocalRequests(page)
    asyncio.run(guarded({"type": kind, "headers": [(b"host", b"evil.example")]}, receive, send))
    assert (reached, said[0]["type"]) == ([], first)
    assert said[0].get("status", 403) == 403
    asyncio.run(guarded({"type": kind, "headers": [(b"host", OWN.encode())]}, receive, send))
    asyncio.run(guarded({"type": "lifespan"}, receive, send))
    assert reached == [kind, "lifespan"]


def test_an_address_that_others_reach_is_not_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.7", "machine", "")] == [False] * 5


@pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed: secateur[demo]")
def test_the_served_page_refuses_foreign_requests(make_encoder: MakeEncoder) -> None:
    contenders = [Contender(role, role, make_encoder(layers=1)) for role in ("teacher", "student")]
    listed = demo.list_sentences(contenders, ["He forgot the key."], "one")
    page = demo.open_page(contenders, listed, host="127.0.0.1", port=7879)
    try:
        for headers, status in (
            ({}, 200),
            ({"Origin": "http://127.0.0.1:7879"}, 200),
            ({"Host": "evil.example"}, 403),
            ({"Origin": "http://evil.example"}, 403),
        ):
            request = urllib.request.Request("http://127.0.0.1:7879/config", headers=headers)
            try:
                found = urllib.request.urlopen(request, timeout=30).status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status, headers
    finally:
        page.close()
