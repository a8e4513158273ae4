"""Questions and the replies to them, read in threads while they come. Nothing here draws."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice

from helpers import InputError
from helpers.config import GenerationSettings
from helpers.knowledge.documents import Passage
from helpers.sources.tables import brief
from helpers.use.client import Ended, Endpoint

PATIENCE_SECONDS = 10.0


@dataclass
class Reply:
    """One model's reply so far. `over`: no more will come; `error`: why it broke off."""

    text: str = ""
    over: bool = False
    ended: Ended | None = None
    error: str = ""

    def remark(self) -> str:
        if self.error:
            return f"Broke off: {self.error}."
        if self.ended is None:
            return "Stopped." if self.over else "Writing …"
        tokens, seconds = self.ended.tokens, self.ended.seconds
        speed = f"{tokens / seconds:.0f} tokens a second, {tokens} in all" if seconds else f"{tokens} tokens"
        return speed + ("." if self.ended.finished else "; stopped at the limit.")


@dataclass(frozen=True)
class Turn:
    """A question, how it was asked, and each side's reply; `text` is the question with `passages` in front."""

    question: str
    settings: GenerationSettings
    replies: dict[str, Reply]
    text: str
    passages: list[Passage] = field(default_factory=list)

    def end(self) -> None:
        for reply in self.replies.values():
            reply.over = True


@contextmanager
def answering(turn: Turn, endpoints: Mapping[str, Endpoint]) -> Iterator[None]:
    """In the block the turn's replies grow. Leaving it early stops the servers.

    It waits for them at most PATIENCE_SECONDS: one that is silent must not keep the slot.
    """
    stopped = threading.Event()
    readers = [
        threading.Thread(target=_read, args=(reply, endpoints[side], turn, stopped), daemon=True)
        for side, reply in turn.replies.items()
    ]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        stopped.set()
        turn.end()
        for reader in readers:
            reader.join(PATIENCE_SECONDS)


def _read(reply: Reply, endpoint: Endpoint, turn: Turn, stopped: threading.Event) -> None:
    limit = 2 * turn.settings.max_new_tokens + 1  # pieces are tokens or more: beyond it the server ignores the limit
    try:
        with closing(endpoint.stream(turn.text, turn.settings)) as stream:
            for piece in islice(stream, limit):
                if isinstance(piece, Ended):
                    reply.text, reply.ended = piece.text, piece
                else:
                    reply.text += piece
                if stopped.is_set():
                    break
    except Exception as error:  # whatever it is, the page must show it and not wait on
        reply.error = brief(error)
        if not isinstance(error, InputError):
            raise
    finally:
        reply.over = True
