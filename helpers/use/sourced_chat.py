"""Chat requests with passages in them, and their replies with the sources, whatever carries the two.

A reply gets two more fields: `sources` (number, title, source, licence, address, text) and `unknown_citations`, the
numbers that it cites and no source has.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.use.citations import unknown_citations
from helpers.use.client import MAX_QUESTION, joined
from helpers.use.sources import open_book


def parsed(body: bytes) -> dict[str, Any]:
    """A request's body; ValueError where it is not a JSON object."""
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("the request is not a JSON object")
    return content


def look_up(index: Index, k: int, body: dict[str, Any]) -> list[Passage]:
    """Put up to k passages in front of the last user message's text in `body`, and return them.

    What is no conversation stays as it is, for the engine to refuse. Raises ValueError for a question over MAX_QUESTION
    characters, and InputError where the index cannot be read.
    """
    turns = body["messages"] if isinstance(body.get("messages"), list) else []
    last = next((turn for turn in turns[::-1] if isinstance(turn, dict) and turn.get("role") == "user"), {})
    content = last.get("content")
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if _is_text(part)]
    question = content if isinstance(content, str) else "\n".join(texts)  # as the engines join parts
    if len(question) > MAX_QUESTION:
        raise ValueError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    text, passages = open_book(index, question, k)
    if passages:
        others = [part for part in parts if not _is_text(part)]
        last["content"] = text if isinstance(content, str) else [{"type": "text", "text": text}, *others]
    return passages


def annotated(reply: dict[str, Any], passages: list[Passage]) -> dict[str, Any]:
    """A whole chat completion with the two fields."""
    return reply | _found(passages, (_parts(choice.get("message")) for choice in reply.get("choices") or []))


class Annotator:
    """The same for a stream of events, in whatever pieces it comes: in a chunk of its own before `[DONE]`."""

    def __init__(self, passages: list[Passage]) -> None:
        self._passages, self._rest, self._same = passages, b"", {}
        self._replies: dict[Any, tuple[str, str]] = defaultdict(lambda: ("", ""))

    def add(self, piece: bytes) -> bytes:
        """The lines that `piece` completes. Not bytes.splitlines(), which would also split at a carriage return."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return b"".join(self._before(line) + line + b"\n" for line in lines)

    def _before(self, line: bytes) -> bytes:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
            chunk = {**self._same, "object": "chat.completion.chunk", "choices": [choice]}
            return event(chunk | _found(self._passages, self._replies.values()))
        if data.startswith(b"{"):
            self._note(json.loads(data))
        return b""

    def _note(self, chunk: dict[str, Any]) -> None:
        self._same = {name: chunk[name] for name in ("id", "created", "model") if name in chunk} or self._same
        for choice in chunk.get("choices") or []:
            before, more = self._replies[choice.get("index")], _parts(choice.get("delta"))
            self._replies[choice.get("index")] = (before[0] + more[0], before[1] + more[1])


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(content)}\n\n".encode()


def _found(passages: list[Passage], replies: Iterable[tuple[str, str]]) -> dict[str, Any]:
    names = ("title", "source", "licence", "address", "text")
    listed = [{"number": n} | {name: getattr(each, name) for name in names} for n, each in enumerate(passages, 1)]
    unknown = {number for reply in replies for number in unknown_citations(joined(*reply), passages)}
    return {"sources": listed, "unknown_citations": sorted(unknown)}


def _parts(message: dict[str, Any] | None) -> tuple[str, str]:
    """The thought and the answer in a message, or in a piece of one."""
    message = message or {}
    return message.get("reasoning_content") or message.get("reasoning") or "", message.get("content") or ""


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
