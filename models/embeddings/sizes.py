"""What the ways from items to vectors take, in plain numbers. Leaf, without torch."""

from __future__ import annotations

#: The ways, by what `--embedding` calls them.
EMBEDDINGS = ("full", "qr", "hash", "lma", "mixed", "autodim", "autoemb", "robe")
#: Those that give bands of popularity widths of their own.
BANDED = ("mixed", "autodim", "autoemb")
#: How many times fewer numbers than `full`, where nobody says.
DEFAULT_COMPRESSION = 16

#: Bands end at this part of the vocabulary, most popular first: 1/64, 1/16, 1/4, all of it.
#: Shares, because it is places that follow a power law, whatever the log.
BANDS = (64, 16, 4, 1)
#: Widths follow the popularity to this power (Ginart and others, arXiv 1909.11810).
TEMPERATURE = 0.3


def mixed_widths(width: int, compression: int) -> tuple[int, ...]:
    """Of bands that hold an item each once: by the power law, and of the wanted size together."""
    shares = [
        1 / band - 1 / before for band, before in zip(BANDS, (float("inf"), *BANDS), strict=False)
    ]
    return _scaled([band**TEMPERATURE for band in BANDS], shares, width, compression)


def nested_widths(width: int, compression: int) -> tuple[int, ...]:
    """Of bands of which each holds all items of those before it: twice as wide from one to one."""
    relative = [2.0**place for place in range(len(BANDS) - 1, -1, -1)]
    return _scaled(relative, [1 / band for band in BANDS], width, compression)


def numbers_of(widths: tuple[int, ...], embedding: str) -> float:
    """Numbers of an item, on average over the vocabulary."""
    before = (float("inf"), *BANDS) if embedding != "autoemb" else (float("inf"),) * len(BANDS)
    shares = [1 / band - 1 / other for band, other in zip(BANDS, before, strict=False)]
    return sum(share * each for share, each in zip(shares, widths, strict=True))


def _scaled(
    relative: list[float], shares: list[float], width: int, compression: int
) -> tuple[int, ...]:
    """The largest whole widths in these relations, from 1 to `width`, that fit the budget."""
    best = (1,) * len(relative)
    for steps in range(1, 64 * width + 1):
        widths = tuple(max(1, min(width, int(each * steps / 64))) for each in relative)
        if sum(s * w for s, w in zip(shares, widths, strict=True)) > width / compression:
            break
        best = widths
    return best
