"""What can be wrong with settings that are each right by themselves, found where they are read, before anything is begun."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from esper.leyline.load import ConfigError
from esper.tolaria.tasks.registry import contexts

if TYPE_CHECKING:
    from esper.distributed.config import EvaluationConfig, RunConfig
    from esper.tolaria.config import TaskConfig
    from esper.tolaria.tasks.base import Context


def check_together(config: RunConfig) -> None:
    """Compare settings of different parts with each other.

    Raises:
        ConfigError: Naming key, value and what would be right.
    """
    if config.evaluation.seeds_per_context:
        evaluated_contexts(config.task, config.evaluation)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", config.policy.device):
        raise ConfigError(f"policy.device={config.policy.device!r} should be cpu or cuda; where it trains is up to cluster.learner_gpus")
    if config.engine.cuda_graphs and config.cluster.env_device != "cuda":
        raise ConfigError(f"engine.cuda_graphs=true: hosts are trained on {config.cluster.env_device}; set cluster.env_gpus")
    if config.engine.cuda_graphs and config.engine.kind == "sequential":
        raise ConfigError("engine.cuda_graphs=true has no effect with engine.kind=sequential; choose population or auto")


def evaluated_contexts(task: TaskConfig, evaluation: EvaluationConfig) -> tuple[Context, ...]:
    """Contexts of the split that the evaluation asks for.

    Raises:
        ConfigError: If one does not exist there, or the split has none.
    """
    offered = contexts(task, evaluation.split)
    unknown = set(evaluation.contexts) - {context.name for context in offered}
    if unknown:
        names = ", ".join(context.name for context in offered)
        raise ConfigError(f"evaluation.contexts: {', '.join(sorted(unknown))} not in split {evaluation.split!r}; it has {names}")
    return tuple(context for context in offered if not evaluation.contexts or context.name in evaluation.contexts)
