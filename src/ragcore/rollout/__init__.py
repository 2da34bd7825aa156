"""Roll out a candidate beside the present implementation: by share of the tenants, with a guard that promotes it or rolls it back."""

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
