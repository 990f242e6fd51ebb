"""URLs of stores, as they may be shown. Leaf."""

from __future__ import annotations

import re


def without_password(url: str) -> str:
    """The URL without its user's name and password."""
    # By hand: newer Pythons refuse to split URLs whose lists of hosts hold IPv6 addresses.
    return re.sub(r"(?<=://)[^/?#]*@", "", url, count=1)
