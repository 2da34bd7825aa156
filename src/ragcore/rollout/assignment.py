"""Assigns tenants to the two sides of a rollout."""

from __future__ import annotations

import hashlib

__all__ = ["position"]

DIGEST = 8


def position(tenant: str, /, *, key: str) -> float:
    """Return a tenant's position in the order of the rollout, in [0, 1). The candidate serves the tenants whose position is below its share.

    A tenant keeps its position, so it stays with the candidate when the share grows, and all processes with the same key agree. Without the key, a position
    can't be computed or chosen. Two keys give independent orders, so different tenants are the first in each rollout.

    Source: M.-J. Saarinen and J.-P. Aumasson, "The BLAKE2 cryptographic hash and message authentication code", RFC 7693, with a key.

    Examples:
        >>> round(position("member-42", key="release-7"), 4) == round(position("member-42", key="release-7"), 4)
        True
    """
    # The key of BLAKE2 has at most 64 bytes, so a longer one is hashed first.
    secret = hashlib.blake2b(key.encode()).digest()
    digest = hashlib.blake2b(tenant.encode("utf-8", "surrogatepass"), key=secret, digest_size=DIGEST).digest()
    # 53 bits, the precision of a float, so that the result is below 1.
    return (int.from_bytes(digest, "big") >> (8 * DIGEST - 53)) / 2**53
