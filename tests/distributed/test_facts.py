from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.facts import examine
from esper.distributed.session import train_run
from esper.leyline.load import ConfigError
from tests.distributed.runs import tiny_config, trace

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.config import RunConfig

CUSTOM = (
    "task.preset=custom",
    "task.contexts=[]",
    "task.factory=tests.fakes.users:make_images",
    "task.num_train=40",
    "task.num_val=20",
    "task.num_test=20",
    "task.batch_size=16",
    "rollout.rounds=1",
)


def custom_config(*overrides: str) -> RunConfig:
    return tiny_config(*CUSTOM, *overrides)


def test_facts_of_a_users_model_come_from_what_its_factory_makes() -> None:
    facts = examine(custom_config())
    assert (facts.family, facts.slot_ids, facts.steps_per_epoch) == ("cnn", ("r0c0", "r0c1"), 3)
    assert facts.host_params > 0
    assert facts.param_budget > 0


def test_what_is_missing_shows_before_work_starts() -> None:
    with pytest.raises(ConfigError, match=r"task\.factory"):
        examine(custom_config("task.factory=null"))
    with pytest.raises(ConfigError, match="no held-out contexts"):
        examine(custom_config("evaluation.seeds_per_context=1", "evaluation.split=heldout"))
    with pytest.raises(ConfigError, match=r"growth\.slots: r0c7"):
        examine(custom_config("growth.slots=[r0c7]"))


def test_a_users_model_cannot_be_asked_to_run_as_one_with_others(tmp_path: Path) -> None:
    reason = r"engine\.kind=population: hosts of custom/factory@1 cannot run as one, since a WrappedHost .*; choose sequential or auto"
    root = tmp_path / "run"
    with pytest.raises(ConfigError, match=reason):
        train_run(custom_config("engine.kind=population"), root, local=True)
    assert not root.exists()
    assert examine(custom_config("engine.kind=auto")).family == "cnn"
    assert examine(tiny_config("engine.kind=population")).max_epochs > 0


def test_steps_are_counted_over_the_preset_of_any_task() -> None:
    assert examine(tiny_config("task.batch_size=10")).steps_per_epoch == 7


def test_a_users_model_is_played_by_a_whole_run(tmp_path: Path) -> None:
    train_run(custom_config(), tmp_path / "run", local=True)
    outcomes = trace(tmp_path / "run", 1).outcomes
    assert len(outcomes) == 4
    assert {row["context"] for row in outcomes} == {"custom/factory@1"}


@pytest.mark.ray
@pytest.mark.slow
def test_a_users_model_played_on_ray_gives_the_same_run(tmp_path: Path) -> None:
    shares = ("cluster.env_cpus=0.25", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25")
    config = custom_config(*shares)
    train_run(config, tmp_path / "here", local=True)
    train_run(config, tmp_path / "there", local=False)
    assert trace(tmp_path / "there", 1) == trace(tmp_path / "here", 1)
