"""Chat requests with passages in them, and their replies with the sources, as the proxy passes them on.

A reply gets two more fields: `sources` (number, title, source, licence, address, text) and `unknown_citations`, the
numbers that it cites and no source has.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.use.citations import listed, look_up
from helpers.use.client import joined, thought_and_answer
from helpers.use.question import MAX_QUESTION

GONE = "the model is not loaded yet, or broke off"


def parsed(body: bytes) -> dict[str, Any]:
    """A request's body; ValueError where it is not a JSON object."""
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("the request is not a JSON object")
    return content


def add_passages(index: Index, k: int, body: dict[str, Any]) -> list[Passage]:
    """Put up to k passages in front of the last user message's text in `body`, and return them.

    What is no conversation is left for the engine to refuse. ValueError for a question over MAX_QUESTION characters.
    """
    turns = body["messages"] if isinstance(body.get("messages"), list) else []
    last = next((turn for turn in turns[::-1] if isinstance(turn, dict) and turn.get("role") == "user"), {})
    content = last.get("content")
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if _is_text(part)]
    question = content if isinstance(content, str) else "\n".join(texts)  # as the engines join parts
    if len(question) > MAX_QUESTION:
        raise ValueError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    text, passages = look_up(index, question, k)
    if passages:
        others = [part for part in parts if not _is_text(part)]
        last["content"] = text if isinstance(content, str) else [{"type": "text", "text": text}, *others]
    return passages


def annotated(reply: dict[str, Any], passages: list[Passage]) -> dict[str, Any]:
    texts = (joined(*thought_and_answer(choice.get("message") or {})) for choice in reply.get("choices") or [])
    return reply | listed(passages, *texts)


def annotated_stream(lines: Iterable[bytes], passages: list[Passage]) -> Iterator[bytes]:
    """The lines of a stream of events, and the two fields in a chunk of their own before `[DONE]`.

    A stream that ends without `[DONE]` has broken off, which an event says, as OpenAI's servers do.
    """
    chunk: dict[str, Any] = {}
    replies: dict[Any, tuple[str, str]] = defaultdict(lambda: ("", ""))
    ended = False
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if data.startswith(b"{"):
            chunk = json.loads(data)
            for choice in chunk.get("choices") or []:
                before, more = replies[choice.get("index")], thought_and_answer(choice.get("delta") or {})
                replies[choice.get("index")] = (before[0] + more[0], before[1] + more[1])
        elif data == b"[DONE]":
            ended = True
            same = {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
            found = listed(passages, *(joined(*reply) for reply in replies.values()))
            yield _event({**same, "object": "chat.completion.chunk", "choices": [choice], **found})
        yield line
    if not ended:
        yield _event(error(503, GONE))


def error(status: int, message: str) -> dict[str, Any]:
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
