"""The pages that may talk to a live view's server: its own, as a browser on this machine or behind an ssh tunnel has it."""

from __future__ import annotations

import http
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from spiky_rl.hosts.isaaclab.camera import GraphicsError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself; another name that leads here may be a page's own, changed behind a browser's back."""


def is_own_page(hosts: list[str], origins: list[str]) -> bool:
    """Whether a request comes from a server's own page, or from no page.

    Args:
        hosts: What its Host headers say, of which there has to be one.
        origins: What its Origin headers say, which a browser adds to every connection that a page's code opens.
    """
    if len(hosts) != 1 or len(origins) > 1:
        return False
    try:
        if urlsplit(f"//{hosts[0]}").hostname not in LOOPBACK:
            return False
        origin = urlsplit(origins[0]) if origins else None
    except ValueError:  # brackets that do not close
        return False
    return origin is None or (
        origin.scheme in ("http", "https") and origin.netloc.lower() == hosts[0].lower()
    )


@contextmanager
def refuse_other_pages() -> Iterator[None]:
    """Let the server that viser starts within the block answer its own page only.

    viser listens for any page of any browser that reaches it and has no option for that: what it calls to listen is another function
    for as long as the block lasts.

    Raises:
        GraphicsError: viser did not call it, so that its server would answer every page.
    """
    server: Any = importlib.import_module("websockets.asyncio.server")
    listen, was_called = server.serve, False

    def listen_to_own_page(*arguments: Any, **named: Any) -> Any:
        nonlocal was_called
        was_called = True
        named["process_request"] = _check_first(named.get("process_request"))
        return listen(*arguments, **named)

    server.serve = listen_to_own_page
    try:
        yield
    finally:
        server.serve = listen
    if not was_called:
        raise GraphicsError(
            "--visualizer viser: this version of viser would answer the pages of every web site; use rerun"
        )


def _check_first(answer: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    """Return ``answer``, or what answers nothing where it is None, behind a check of whose page asks."""

    def check(connection: Any, request: Any) -> Any:
        headers = request.headers
        if not is_own_page(headers.get_all("Host"), headers.get_all("Origin")):
            said = "only this server's own page, by localhost, may connect\n"
            return connection.respond(http.HTTPStatus.FORBIDDEN, said)
        return None if answer is None else answer(connection, request)

    return check
