"""A compact set of names, for listings with millions of entries."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

__all__ = ["Names"]


class Names:
    """A set of names in 8 bytes each. Add all names before you call `has`, because `has` sorts the set after each change.

    The set holds hashes. So, very rarely, `has` returns True for a name that was not added: then a document is kept that could be deleted. The reverse is
    impossible.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted: NDArray[np.uint64] | None = None

    def add(self, *parts: str) -> None:
        """Add a name of one or more parts."""
        self._hashes.append(_hash(parts))
        self._sorted = None

    def has(self, *parts: str) -> bool:
        """Return whether the name was added."""
        if self._sorted is None:
            self._sorted = (
                np.sort(np.frombuffer(self._hashes, dtype=np.uint64)) if self._hashes else np.zeros(0, np.uint64)
            )
        wanted = np.uint64(_hash(parts))
        place = int(np.searchsorted(self._sorted, wanted))
        return place < len(self._sorted) and self._sorted[place] == wanted

    def __len__(self) -> int:
        return len(self._hashes)


def _hash(parts: tuple[str, ...]) -> int:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
