"""The log of calls: one structured line for each call that has ended, on the logger "ragcore.call".

The fields are attributes of the log record, as `logging`'s `extra=` makes them, so formatters for JSON and structlog find them. A line has no text of a
question, a passage or an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b

__all__ = ["log_call", "pseudonym"]

logger: logging.Logger = logging.getLogger("ragcore.call")


def log_call(
    *,
    call_id: str,
    method: str,
    tenant: str,
    outcome: str,
    elapsed: float,
    stages: Mapping[str, float],
    degraded: Sequence[str],
    finish_reason: str | None,
    attempts: int,
    plain_tenant: bool,
) -> None:
    """Log one call that has ended.

    Args:
        elapsed: seconds.
        stages: seconds by stage, with the time to the first token.
        degraded: the stages that failed and were replaced.
        attempts: 1, and 1 more for each request that was repeated.
        plain_tenant: whether the line has the tenant's name. If not, it has `pseudonym(tenant)`.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    milliseconds = round(1000 * elapsed, 1)
    fields = {
        "call_id": call_id,
        "method": method,
        "tenant": tenant if plain_tenant else pseudonym(tenant),
        "outcome": outcome,
        "elapsed_ms": milliseconds,
        "stages_ms": {stage: round(1000 * seconds, 1) for stage, seconds in stages.items()},
        "degraded": list(degraded),
        "finish_reason": finish_reason,
        "attempts": attempts,
    }
    logger.info("%s %s in %.1f ms, call %s", method, outcome, milliseconds, call_id, extra=fields)


def pseudonym(tenant: str) -> str:
    """Return a stand-in for a tenant's name: 16 hexadecimal digits of its BLAKE2b hash, the same in each process.

    A reader of the log can find the lines of a tenant whose name they know. They can also find the name of a tenant if they can guess it.
    """
    return blake2b(tenant.encode(errors="surrogatepass"), digest_size=8, person=b"ragcore.call").hexdigest()
