"""The server of a run with sources: it looks each question up, sends it on to the engine, and adds what it found.

It takes `GET /health`, `GET /v1/models` and `POST /v1/chat/completions`, and passes on what the engine refuses.
"""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.use.listening import CLIENT_SECONDS
from helpers.use.sourced_chat import Annotator, annotated, event, look_up, parsed

MAX_BODY = 1 << 20  # bytes of a request
BROKE_OFF = "the model broke off"


class Proxy:
    """In front of the engine at the address `engine`; clients send `api_key`, if there is one, and never the engine's.

    Nothing of a client's headers goes to the engine or into a log.
    """

    def __init__(self, engine: str, engine_key: str, api_key: str, index: Index, k: int) -> None:
        self._expected, self._index, self._k = f"Bearer {api_key}".encode() if api_key else b"", index, k
        self._engine = httpx.AsyncClient(
            base_url=engine,
            headers={"Authorization": f"Bearer {engine_key}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(None, connect=5),  # a reply may wait for others, and takes minutes
            # The engine may close a kept connection just as a question is sent on it.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    def app(self) -> Starlette:
        routes = [Route(path, self._pass_on) for path in ("/health", "/v1/models")]
        routes.append(Route("/v1/chat/completions", self._chat, methods=["POST"]))
        app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse, ClientDisconnect: _refuse})
        app.router.redirect_slashes = False
        return app

    async def _pass_on(self, request: Request) -> Response:
        path = request.scope["path"]
        if path != "/health":
            self._check_key(request)
        return _copy(await _while_there(request, self._ask("GET", path)))

    async def _chat(self, request: Request) -> Response:
        self._check_key(request)
        body, passages = await run_in_threadpool(self._look_up, await _read(request))
        answer = await _while_there(request, self._ask("POST", "/v1/chat/completions", body))
        if answer.status_code != 200:
            return _copy(answer)
        return _Relay(answer, passages) if _is_stream(answer) else JSONResponse(annotated(answer.json(), passages))

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("Authorization", "").encode("latin-1")
        if self._expected and not secrets.compare_digest(given, self._expected):
            raise HTTPException(401, "Invalid API Key")

    def _look_up(self, body: bytes) -> tuple[bytes, list[Passage]]:
        try:
            asked = parsed(body)
            passages = look_up(self._index, self._k, asked)
            return json.dumps(asked).encode(), passages
        except InputError as error:  # it names a file of this machine
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise HTTPException(503, "the index cannot be searched") from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """The engine's answer; of a stream only its beginning."""
        kind = {"Content-Type": "application/json"} if content else {}
        try:
            asked = self._engine.build_request(method, path, content=content, headers=kind)
            answer = await self._engine.send(asked, stream=True)
            if not _is_stream(answer):
                await answer.aread()
            return answer
        except httpx.ConnectError:
            raise HTTPException(503, "the model is not loaded yet, or has been stopped") from None
        except httpx.HTTPError:
            raise HTTPException(502, BROKE_OFF) from None


class _Relay(StreamingResponse):
    """The engine's stream with sources, closed as soon as the client leaves, which frees the engine's slot."""

    def __init__(self, answer: httpx.Response, passages: list[Passage]) -> None:
        super().__init__(self._pieces(Annotator(passages)), media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            await self._answer.aclose()

    async def _pieces(self, annotator: Annotator) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.aiter_bytes():
                yield annotator.add(piece)
        except httpx.HTTPError:
            yield event(_error(502, BROKE_OFF))


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(CLIENT_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    raise HTTPException(413, f"the request has more than {MAX_BODY:,} bytes")
    except TimeoutError:
        raise HTTPException(408, "the request did not arrive in time") from None
    return bytes(body)


async def _while_there(request: Request, work: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
    """What the work gives; where the client leaves first, ClientDisconnect, and the work is cancelled."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse(_error(error.status_code, error.detail), error.status_code)
    return Response(status_code=499)  # for nobody: the client has left


def _error(status: int, message: str) -> dict[str, Any]:
    """As OpenAI's servers say it."""
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _copy(answer: httpx.Response) -> Response:
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("Content-Type"))


def _is_stream(answer: httpx.Response) -> bool:
    return answer.headers.get("Content-Type", "").startswith("text/event-stream")
