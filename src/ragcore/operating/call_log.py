"""The log of calls: one structured line for each call that has ended, on the logger "ragcore.call", and the reasons of degradations, on "ragcore.degraded".

The fields are attributes of the log record, as `logging`'s `extra=` makes them, so formatters for JSON and structlog find them. A line has no text of a
question, a passage or an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from ragcore.types import Degradation

__all__ = ["DegradationLog", "log_call", "pseudonym"]

logger: logging.Logger = logging.getLogger("ragcore.call")
degraded_logger: logging.Logger = logging.getLogger("ragcore.degraded")

# While a dependency fails, each call degrades for the same reason. One line a minute is enough.
REPEAT_SECONDS = 60.0


class DegradationLog:
    """Logs why stages were replaced by a fallback. A degraded call raises no error, so nothing else tells the operator what the dependency said.

    The first degradation of each stage with each class of error is logged, and then at most one a minute.
    """

    def __init__(self) -> None:
        # There are few stages and classes of errors, so this stays small.
        self._logged: dict[tuple[str, str], float] = {}

    def log(self, degradations: Sequence[Degradation], *, call_id: str, now: float) -> None:
        """Log the degradations of a call.

        Args:
            now: the time in seconds, of the clock of all calls.
        """
        for part in degradations:
            kind = (part.stage, part.error)
            last = self._logged.get(kind)
            if last is not None and now - last < REPEAT_SECONDS:
                continue
            self._logged[kind] = now
            error = f"{part.error}: {part.reason}" if part.error else part.reason
            degraded_logger.warning(
                "call %s degraded in %s: %s; fallback: %s", call_id, part.stage, error, part.fallback
            )


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
