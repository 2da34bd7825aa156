"""Roll out a candidate next to the present implementation, for a growing share of the tenants. A guard promotes it or rolls it back."""

from ragcore.rollout.evidence import Evidence, Tally
from ragcore.rollout.guard import Guard, Verdict
from ragcore.rollout.rollout import Rollout
from ragcore.rollout.shadow import Shadow
from ragcore.rollout.sides import Asking, Implementation, Streaming
from ragcore.rollout.status import RolloutStatus, SideStatus
from ragcore.rollout.streaming import RolloutStream

__all__ = [
    "Asking",
    "Evidence",
    "Guard",
    "Implementation",
    "Rollout",
    "RolloutStatus",
    "RolloutStream",
    "Shadow",
    "SideStatus",
    "Streaming",
    "Tally",
    "Verdict",
]
