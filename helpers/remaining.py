"""How much longer replies will take that are decoded side by side, from the tokens there are and not their number."""

import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from heapq import heapify, heapreplace
from math import log

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, fill the interval evenly, however many of them are taken


class Remaining:
    """Told how long each reply is so far (`look`) and in the end (`end`), it says what is `left` and the `speed`.

    The replies that have ended are the short ones, so their mean would promise too much: Kaplan and Meier (1958) count
    the unfinished too, as longer than they are. Where no reply has ended yet, the tail goes on as an exponential one
    (Brown, Hollander and Korwar 1974): the flat one that is usual would keep all to the limit after the first end.

    What is left lasts as long as its last row, not as the mean row: a step for a few rows takes a GPU as long as one
    for many. So each unfinished reply gets a length out of that distribution, all of them evenly spread over it, and
    those that wait get the row that is free first. A CPU is quicker with fewer rows, and ends sooner than this says.
    """

    def __init__(self, asked: int, limit: int) -> None:
        self.asked, self.limit, self.rows = asked, limit, 0
        self.working: list[int] = []  # how many tokens each has
        self.ended: list[tuple[int, bool]] = []  # tokens, and whether it ended by itself
        self._started = self._looked = time.monotonic()
        self._seen, self._row_seconds, self._pace = 0, 0.0, 0.0

    def look(self, working: Iterable[int]) -> None:
        """Take the tokens of each reply that was begun and is unfinished; after `end` of those that have ended."""
        self.working = list(working)
        now, busy = time.monotonic(), len(self.working) + len(self.ended) - self._seen
        self.rows = max(self.rows, busy)
        self._row_seconds += busy * (now - self._looked)
        self._looked, self._seen = now, len(self.ended)
        self._pace = self._tokens() / self._row_seconds if self._row_seconds else 0.0

    def end(self, tokens: int, by_itself: bool) -> None:
        """Take one that is done, and whether it ended by itself or by the limit."""
        self.ended.append((tokens, by_itself))

    def speed(self) -> str:
        """Of all rows together, since the beginning."""
        seconds = time.monotonic() - self._started
        return f"{self._tokens() / seconds:,.0f} tokens/s" if seconds else ""

    def left(self) -> str:
        """In words: a bound as long as no reply has ended by itself; nothing before there is a speed."""
        if not self._pace:
            return ""
        word = "about" if any(by_itself for _, by_itself in self.ended) else "at most"
        return f"{word} {self._steps() / self._pace:.0f} s left"

    def _tokens(self) -> int:
        return sum(tokens for tokens, _ in self.ended) + sum(self.working)

    def _steps(self) -> float:
        """Tokens that the row which is done last has still to come."""
        lengths, longer = self._survival()

        def length(at_least: int, k: int) -> float:
            if not lengths:
                return self.limit
            share = longer[bisect_right(lengths, at_least)] * ((k + 0.5) * GOLDEN % 1)
            found = bisect_left(longer, -share, key=lambda x: -x)  # the shares fall, and bisect wants them to rise
            if found < len(longer):
                return lengths[found - 1]
            past_all = max(at_least, lengths[-1]) + lengths[-1] * log(share / longer[-1]) / log(longer[-1])
            return min(self.limit, past_all)

        free = [length(tokens, k) - tokens for k, tokens in enumerate(self.working)]
        free += [0.0] * (self.rows - len(free))
        heapify(free)
        for k in range(len(self.working), self.asked - len(self.ended)):  # those that wait
            heapreplace(free, free[0] + length(0, k))
        return max(free)

    def _survival(self) -> tuple[list[int], list[float]]:
        """The lengths at which replies ended by themselves, and the share longer than nothing and than each of them."""
        known = sorted([tokens for tokens, _ in self.ended] + self.working)
        ends = sorted(Counter(tokens for tokens, by_itself in self.ended if by_itself).items())
        longer = [1.0]
        for tokens, count in ends:
            longer.append(longer[-1] * (1 - count / (len(known) - bisect_left(known, tokens))))
        return [tokens for tokens, _ in ends], longer
