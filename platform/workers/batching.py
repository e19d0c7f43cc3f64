"""How large a batch is, and how long it waits for company."""

from __future__ import annotations

from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.policies import Policy

#: Batches are quick while they take less than this on the average. Only then is a batch sent ahead: for longer ones the transfer
#: does not matter, and what is with a worker cannot be taken back from it when its client goes away or another worker becomes
#: idle.
QUICK_S = 0.005
#: Weight of the newest batch in the mean duration, and the mean before the first one.
DURATION_WEIGHT = 0.2
FIRST_DURATION_S = 1.0
#: Calls of functions that one worker takes before another idle one gets some, too.
SHARED_FROM = 8


def due_at(policy: Policy, head: Job, waiting: int) -> float:
    """When the next batch of a model that fills them may go out; 0 for at once.

    Args:
        policy: How the model is served.
        head: The job that it begins with.
        waiting: How many jobs wait.
    """
    if head.deaths or waiting >= min(policy.batch_size, policy.queue_size):
        return 0.0
    return head.submitted + policy.batch_delay_s


def most_rows(policy: Policy, waiting: int, idle: int, mean_s: float) -> int:
    """Most rows of the next batch. Idle workers share what does not gain by being computed together.

    Args:
        policy: How the model is served.
        waiting: How many jobs wait.
        idle: How many workers wait for them.
        mean_s: How long batches take on the average.
    """
    if not policy.join_quick:
        return policy.batch_size
    if mean_s > QUICK_S:
        return 1
    share = -(-waiting // max(1, idle))
    return min(policy.batch_size, max(SHARED_FROM, share))
