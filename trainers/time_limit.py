"""When a command must end: after the last epoch that fits, not in the middle of one.

How long the next epoch takes is guessed by the longest of the last few. It stops nothing by itself: the training loop
asks before every epoch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from jedi_env.errors import UsageError

RECENT = 3  # epochs: the first of a run and those that are scored take longer than others


class TimeLimit:
    """So many minutes from now on.

    Args:
        minutes: how many.
        clock: tells seconds.

    Raises:
        UsageError: not a positive number of minutes.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < minutes < math.inf:
            raise UsageError(f"The time limit is {minutes} minutes: write a positive number.")
        self.minutes = minutes
        self._clock = clock
        self._began = clock()
        self._epoch_began: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.seconds >= 60 * self.minutes

    def another(self) -> bool:
        """Return whether one more epoch fits; to be asked before every epoch, and only then."""
        now = self.seconds
        if self._epoch_began is not None:
            self._recent.append(now - self._epoch_began)
        self._epoch_began = now
        return now + max(self._recent, default=0.0) < 60 * self.minutes
