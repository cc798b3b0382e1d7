"""Origin check of a live view's server: only its own page may connect, from this machine or through an ssh tunnel."""

from __future__ import annotations

import http
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from spiky_rl.hosts.isaaclab.camera import GraphicsError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Loopback names; any other name may belong to a foreign page (DNS rebinding)."""


def is_own_page(hosts: list[str], origins: list[str]) -> bool:
    """Return whether a request with these Host and Origin headers comes from the server's own page, or from no page.

    There must be exactly one Host. A browser adds an Origin to every connection of a page's code.
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
    """Restrict the server that viser starts within the block to its own page.

    viser accepts every page and has no option against it, so its ``serve`` function is replaced within the block.

    Raises:
        GraphicsError: viser did not call the function, so its server would accept every page.
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
            "--visualizer viser: this version of viser would accept connections from every web site; use rerun"
        )


def _check_first(answer: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    """Return a request handler that refuses other pages and then calls ``answer``, if any."""

    def check(connection: Any, request: Any) -> Any:
        headers = request.headers
        if not is_own_page(headers.get_all("Host"), headers.get_all("Origin")):
            message = "only this server's own page, by localhost, may connect\n"
            return connection.respond(http.HTTPStatus.FORBIDDEN, message)
        return None if answer is None else answer(connection, request)

    return check
