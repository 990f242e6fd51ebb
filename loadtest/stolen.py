"""What the host of a virtual machine takes from it: a figure taken meanwhile is the host's, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

STAT = Path("/proc/stat")
IDLE, WAITING, STOLEN = 3, 4, 7  # columns of its first line, in ticks


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time since the machine started: what was wanted, and what of it others got."""

    wanted: int
    stolen: int

    @classmethod
    def now(cls, stat: Path = STAT) -> Self | None:
        """None where the system does not tell."""
        try:
            line = stat.read_text().partition("\n")[0]
            ticks = [int(text) for text in line.split()[1 : STOLEN + 2]]
            return cls(sum(ticks) - ticks[IDLE] - ticks[WAITING], ticks[STOLEN])
        except (OSError, ValueError, IndexError):
            return None


def stolen_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """Of the processor time wanted in between, the share that the host gave to others."""
    if before is None or after is None or after.wanted <= before.wanted:
        return None
    return round((after.stolen - before.stolen) / (after.wanted - before.wanted), 4)
