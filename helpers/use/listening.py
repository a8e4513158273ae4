"""An HTTP server in a thread of this process."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from helpers import InputError

CLIENT_SECONDS = 60.0  # for a client to send its request, as long as llama.cpp's own server waits


class _Connection(H11Protocol):
    """Closed where it sends no whole head of a request: uvicorn would wait for ever."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(CLIENT_SECONDS, lambda: self.cycle or transport.close())


@contextmanager
def listening(app: Starlette, host: str, port: int, grace: int) -> Iterator[str]:
    """The app at an address, http://HOST:PORT; at the end its replies get `grace` seconds. InputError: port taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        bound = socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} ({error.strerror}): is the port taken?") from None
    config = uvicorn.Config(
        app, http=_Connection, loop="asyncio", ws="none", lifespan="off", log_config=None, log_level="error",
        access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=grace,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(grace + 5)
