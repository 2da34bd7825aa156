"""The routes of a rollout, for administrators: `GET /debug/rollout`, and `POST /debug/rollout/promote`, `pause`, `resume` and `abort`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ragcore.audit import record
from ragcore.contrib.asgi.chat import check_fields, decoded
from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.problem import Refused
from ragcore.errors import InvalidInput

if TYPE_CHECKING:
    from ragcore.rollout import Rollout

__all__ = ["ROLLOUT", "RolloutRoutes"]

ROLLOUT = "/debug/rollout"
ACTIONS: tuple[Literal["promote", "pause", "resume", "abort"], ...] = ("promote", "pause", "resume", "abort")
SHAPE = '{"reason": "…"}'
MOST_REASON = 500
# The name in the audit log for a change that concerns all tenants.
ALL_TENANTS = "*"


class RolloutRoutes:
    """Shows a rollout to administrators, and changes it for them. The audit log records each access."""

    def __init__(self, rollout: Rollout[Any]) -> None:
        self._rollout = rollout

    async def status(self, exchange: Exchange, identity: Identity) -> None:
        """Show the state of the rollout and its figures.

        Raises:
            Refused: the caller is not an administrator (status 403).
        """
        _check_admin(identity)
        record("rollout", ALL_TENANTS)
        await exchange.respond(200, self._rollout.status().to_dict())

    async def change(self, exchange: Exchange, identity: Identity) -> None:
        """Change the state. The body may contain the reason. The audit log has the outcome.

        Raises:
            Refused: the caller is not an administrator (status 403).
            InvalidInput: the body is invalid, or the state does not allow the change.
        """
        _check_admin(identity)
        outcome = "cancelled"
        try:
            await self._change(exchange)
            outcome = "ok"
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            record("rollout", ALL_TENANTS, outcome=outcome)
        await exchange.respond(200, self._rollout.status().to_dict())

    async def _change(self, exchange: Exchange) -> None:
        action = next(name for name in ACTIONS if exchange.path.rstrip("/").endswith(f"/{name}"))
        asked = decoded(exchange.body) if exchange.body else {}
        if not isinstance(asked, dict):
            raise InvalidInput(f"the body must be empty, or JSON like {SHAPE}")
        check_fields(asked, {"reason"}, like=SHAPE)
        reason = asked.get("reason", "by hand")
        if not isinstance(reason, str) or not 1 <= len(reason) <= MOST_REASON:
            raise InvalidInput(f"reason must be a text of 1 to {MOST_REASON} characters")
        await self._rollout.change(action, reason)


def _check_admin(identity: Identity) -> None:
    if not identity.admin:
        raise Refused(403, "Forbidden", "only administrators may use this route")
