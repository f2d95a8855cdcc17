"""How long the refusal of a hostile input may take.

The project's limit is 100 ms for inputs of up to 1 MiB, on a machine that does nothing else. Tests run beside
others on processors that they share, where the same work has taken four times as long; they are there to find
what grows faster than its input. All of them ask for processor time.
"""

from __future__ import annotations

REFUSAL_SECONDS = 0.1
BUSY_SECONDS = 5 * REFUSAL_SECONDS
