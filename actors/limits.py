"""Rate limiting: a token bucket that never queues."""

from __future__ import annotations

from time import monotonic


class TokenBucket:
    """`rate` tokens a second, at most `rate * burst` of them saved; a rate of 0 means no limit.

    https://en.wikipedia.org/wiki/Token_bucket
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.capacity = max(rate * burst, 1.0)
        self.tokens = self.capacity
        self.filled = monotonic()

    def take(self) -> bool:
        """Take one token, if there is one."""
        if self.rate == 0.0:
            return True
        now = monotonic()
        tokens = self.tokens + (now - self.filled) * self.rate
        self.filled = now
        if tokens > self.capacity:
            tokens = self.capacity
        if tokens < 1.0:
            self.tokens = tokens
            return False
        self.tokens = tokens - 1.0
        return True

    def owe(self, tokens: float) -> None:
        """Take more than may be there: what is missing is paid back before the next `take`."""
        if self.rate != 0.0:
            self.tokens -= tokens

    def wait(self) -> float:
        """Seconds until there is a token again."""
        return max(0.0, (1.0 - self.tokens) / self.rate) if self.rate else 0.0

    def change(self, rate: float, burst: float) -> None:
        """New limits; what was saved stays, within them, so that a change is no free burst. Where
        there was no limit, as at the start, a whole burst is saved."""
        was_unlimited = self.rate == 0.0
        self.rate = rate
        self.capacity = max(rate * burst, 1.0)
        self.tokens = self.capacity if was_unlimited else min(self.tokens, self.capacity)
