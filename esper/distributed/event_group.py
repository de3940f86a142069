"""The `group_id` of events: which round or evaluation of which policy they belong to. The one place that spells it."""

from __future__ import annotations

LEARNED = "learned"
"""Row label of the policy that the learner holds."""


def group_id(split: str, policy: str, index: int) -> str:
    """Name a group, e.g. `train/learned/7` for the eighth training round."""
    return f"{split}/{policy}/{index}"


def is_after(name: str, num_rounds: int) -> bool:
    """Whether a group belongs to what happens after `num_rounds` training rounds: later rounds, and any evaluation."""
    split, _, rest = name.partition("/")
    if split != "train":
        return bool(rest)
    policy, _, index = rest.partition("/")
    return policy != LEARNED or int(index) >= num_rounds
