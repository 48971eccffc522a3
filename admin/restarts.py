"""How long to wait before something that died is started again."""

from __future__ import annotations

from collections import deque
from typing import Final

# The first death is mostly an accident: start again at once. What dies again and again is not cured
# by haste, and haste would use up the machine.
FIRST_PAUSE: Final = 0.1
# So many in a row are tried quickly; more within the window are tried once in COOL_DOWN.
RESTARTS_MAX: Final = 5
WINDOW: Final = 60.0
COOL_DOWN: Final = 30.0


class Restarts:
    """Counts deaths. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=RESTARTS_MAX + 1)

    def pause(self, now: float) -> float:
        """Count a death at `now`; answer the seconds to wait: doubled each time within the window,
        COOL_DOWN after RESTARTS_MAX of them."""
        self._deaths.append(now)
        recent = sum(1 for death in self._deaths if now - death < WINDOW)
        return COOL_DOWN if recent > RESTARTS_MAX else FIRST_PAUSE * 2.0 ** (recent - 1)
