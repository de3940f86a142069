from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from esper.distributed.env_watch import ATTRIBUTION, EnvWatch, attribution_of
from esper.distributed.gauges import Gauges
from esper.leyline.reports import Counterfactuals
from esper.leyline.rng import SeedTree
from esper.leyline.stages import SeedStage
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.transport import InProcessTransport
from esper.simic.attribution import all_configurations, configurations_of, sampled_orders
from tests.fakes.sinks import MemorySink
from tests.simic.reports import make_report, make_seed

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport

SEEDS = SeedTree(3)


def last_report(slots: tuple[int, ...], table: Counterfactuals | None, **values: Any) -> TrialReport:
    seeds = [make_seed(i, stage=SeedStage.HOLDING) if i in slots else None for i in range(8)]
    return make_report(*seeds, **({"epoch": 12, "max_epochs": 12, "done": True, "test_accuracy": 50.0, "counterfactuals": table} | values))


def worth(slots: tuple[int, ...]) -> float:
    """Accuracy of a world in which slot i is worth i + 1 points, and slots 0 and 1 three more together."""
    return 40.0 + sum(slot + 1 for slot in slots) + 3.0 * ({0, 1} <= set(slots))


def table_of(configurations: tuple[tuple[int, ...], ...]) -> Counterfactuals:
    ordered = tuple(sorted(configurations, key=len, reverse=True))
    return Counterfactuals(ordered, tuple(worth(slots) for slots in ordered))


def test_few_seeds_are_attributed_exactly() -> None:
    told = attribution_of(last_report((0, 1, 2), table_of(all_configurations((0, 1, 2)))), SEEDS)
    assert told is not None
    assert told.kind == "shapley_computed"
    assert told.shapley_values == pytest.approx({"r0c0": 2.5, "r0c1": 3.5, "r0c2": 3.0})
    assert told.shapley_standard_errors == {"r0c0": 0.0, "r0c1": 0.0, "r0c2": 0.0}
    assert told.interactions == pytest.approx({"r0c0+r0c1": 3.0, "r0c0+r0c2": 0.0, "r0c1+r0c2": 0.0})


def test_many_seeds_are_attributed_from_the_orders_that_were_evaluated() -> None:
    slots = (0, 1, 3, 4, 6, 7)
    drawn = configurations_of(sampled_orders(slots, SEEDS.child(ATTRIBUTION).numpy()))
    told = attribution_of(last_report(slots, table_of(drawn)), SEEDS)
    assert told is not None
    assert told.shapley_values is not None
    assert told.shapley_standard_errors is not None
    assert sum(told.shapley_values.values()) == pytest.approx(worth(slots) - worth(()))
    assert told.shapley_values["r0c7"] == pytest.approx(8.0)
    assert told.shapley_standard_errors["r0c7"] == pytest.approx(0.0, abs=1e-9)
    assert set(told.shapley_standard_errors) == {f"r0c{slot}" for slot in slots}


@pytest.mark.parametrize(
    "report",
    [
        last_report((), Counterfactuals(((),), (40.0,))),
        last_report((0,), None),
        last_report((0,), table_of(all_configurations((0,))), epoch=7),
    ],
    ids=["no seeds", "rolled back", "before the end"],
)
def test_what_was_not_evaluated_is_not_attributed(report: TrialReport) -> None:
    assert attribution_of(report, SEEDS) is None


@pytest.fixture
def watched() -> tuple[EnvWatch, MemorySink]:
    sink, config = MemorySink(), TelemetryConfig(flush_rows=1)
    emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=config)
    return EnvWatch(emitter, Gauges(emitter, config, "cpu")), sink


def test_a_group_tells_what_it_did_and_that_its_hosts_settled(watched: tuple[EnvWatch, MemorySink]) -> None:
    watch, sink = watched
    watch.begin([make_report(epoch=0, env_id=env, val_loss=2.0) for env in (4, 5)])
    for epoch in range(1, 6):
        watch.step("train/learned/0", 0, make_report(epoch=epoch, env_id=4, val_loss=2.0), "WAIT")
        watch.step("train/learned/0", 1, make_report(epoch=epoch, env_id=5, val_loss=2.0 / epoch), "PRUNE" if epoch == 2 else "WAIT")
    watch.finish("train/learned/0", [last_report((), None), last_report((), None)], [SEEDS, SEEDS])
    (settled,) = sink.rows("TAMIYO_INITIATED")
    assert (settled["env_id"], settled["epoch"], settled["group_id"]) == (4, 3, "train/learned/0")
    snapshots: Any = sink.rows("ANALYTICS_SNAPSHOT")
    (snapshot,) = snapshots
    assert snapshot["kind"] == "action_distribution"
    assert dict(snapshot["action_counts"]) == {"WAIT": 9, "PRUNE": 1}
    assert snapshot["total_events_received"] > 0


def test_lasting_suspicion_is_told_with_its_seed(watched: tuple[EnvWatch, MemorySink]) -> None:
    watch, sink = watched
    sick = make_report(make_seed(contribution=2.0, stage=SeedStage.HOLDING), counterfactuals=Counterfactuals(((),), (55.0,)))
    watch.begin([sick])
    for _ in range(5):
        watch.step("train/learned/0", 0, sick, "WAIT")
    (told,) = sink.rows("REWARD_HACKING_SUSPECTED")
    assert (told["pattern"], told["seed_id"], told["severity"]) == ("ransomware", "seed0", "warning")


def test_watching_leaves_the_episodes_randomness_alone() -> None:
    before = SEEDS.child(ATTRIBUTION).numpy().random(4)
    attribution_of(last_report((0,), table_of(all_configurations((0,)))), SEEDS)
    assert np.array_equal(SEEDS.child(ATTRIBUTION).numpy().random(4), before)
