from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tolaria import EngineConfig
from esper.tolaria.engine.base import Evaluate, OneByOne
from esper.tolaria.engine.choose import HostSize, Measurement, choose, choose_for, host_size, make_trainer, nearest, read_table
from esper.tolaria.engine.together import Together
from esper.tolaria.trial import TrialBatch
from tests.tolaria.trials import make_request, make_trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tolaria.engine.base import Engine

SIZE = HostSize("cnn", 1000, 100)


def row(
    num_members: int, speedup: float, grown: float | None = None, *, host: str = "a", macs: int = 1000, values: int = 100
) -> Measurement:
    return Measurement("cnn", host, macs, values, num_members, speedup, 1.0, grown or speedup, 1.0)


def test_hosts_run_as_one_where_as_many_gained() -> None:
    table = [row(1, 0.8), row(4, 2.0), row(16, 4.0)]
    few, many = choose(table, SIZE, 4), choose(table, SIZE, 16)
    assert (few.runs_as_one, few.at_most, few.measurement) == (True, 4, table[1])
    assert (many.runs_as_one, many.at_most) == (True, 16)


def test_fewer_than_were_measured_to_gain_run_one_by_one() -> None:
    table = [row(1, 0.8), row(4, 2.0)]
    for num_members in (1, 2, 3):
        assert not choose(table, SIZE, num_members).runs_as_one


def test_no_more_run_at_once_than_gained_the_most() -> None:
    table = [row(1, 0.9), row(4, 1.5), row(16, 1.2)]
    assert choose(table, SIZE, 16).at_most == 4
    assert choose(table, SIZE, 3).at_most == 1


def test_hosts_must_gain_with_and_without_seeds() -> None:
    assert not choose([row(4, 3.0, 0.9)], SIZE, 4).runs_as_one
    assert not choose([row(4, 0.9, 3.0)], SIZE, 4).runs_as_one
    assert choose([row(4, 1.2, 1.1)], SIZE, 4).runs_as_one


def test_an_equal_time_is_no_gain() -> None:
    assert not choose([row(4, 1.0)], SIZE, 4).runs_as_one


def test_the_nearest_host_of_the_family_counts_on_a_logarithmic_scale() -> None:
    small, large = row(4, 2.0, host="small", macs=100), row(4, 0.5, host="large", macs=10_000)
    other = replace(row(4, 9.0, host="other"), family="mlp")
    assert nearest([other, small, large], HostSize("cnn", 900, 100)) == [small]
    assert nearest([other, small, large], HostSize("cnn", 1100, 100)) == [large]
    assert nearest([small, large], HostSize("cnn", 1000, 100)) == [small]


def test_hosts_of_equal_arithmetic_are_told_apart_by_the_size_of_values() -> None:
    table = [row(4, 2.0, host="small images"), row(4, 0.5, host="large images", values=10_000)]
    assert choose(table, replace(SIZE, values=200), 4).runs_as_one
    assert not choose(table, replace(SIZE, values=5000), 4).runs_as_one


@st.composite
def tables(draw: st.DrawFn) -> list[Measurement]:
    gain = st.floats(0.1, 10.0)
    hosts = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    return [
        row(count, draw(gain), draw(gain), host=host, macs=draw(st.integers(1, 10**6)) if count == 1 else 7, values=9)
        for host in hosts
        for count in [1, *sorted(draw(st.sets(st.integers(2, 64), max_size=4)))]
    ]


@settings(max_examples=50, deadline=None)
@given(tables(), st.integers(1, 10**7), st.integers(1, 100))
def test_what_was_measured_slower_is_never_chosen(table: list[Measurement], macs: int, num_members: int) -> None:
    choice = choose(table, HostSize("cnn", macs, 50), num_members)
    assert choice == choose(table, HostSize("cnn", macs, 50), num_members)
    assert choice.measurement in table
    assert 1 <= choice.at_most <= num_members
    if choice.runs_as_one:
        assert choice.measurement.num_members <= choice.at_most
        assert min(choice.measurement.speedup, choice.measurement.grown_speedup) > 1.0


def test_the_shipped_table_knows_every_family_alone_and_together() -> None:
    table = read_table()
    for family in ("cnn", "mlp", "transformer"):
        own = [entry for entry in table if entry.family == family]
        assert {1, 4, 16} <= {entry.num_members for entry in own}
    assert len({(entry.host, entry.num_members) for entry in table}) == len(table)
    assert all(min(entry.one_by_one_ms, entry.as_one_ms, entry.grown_one_by_one_ms, entry.grown_as_one_ms) > 0 for entry in table)


def test_a_host_is_looked_up_by_its_arithmetic_and_its_widest_batch() -> None:
    engine = make_trial().engine
    size = host_size(engine)
    assert size.family == "cnn"
    assert size.macs == sum(layer.flops for layer in engine.model.host.layer_specs())
    widest = max(64, *(spec.channels * spec.positions for spec in engine.model.host.injection_specs()))
    assert size.values == widest * engine.plan.batch_size


def test_the_choice_for_engines_is_the_rule_for_their_size() -> None:
    engines = [make_trial(make_request(0, env_id=i)).engine for i in range(3)]
    table = read_table()
    assert choose_for(engines, table) == choose(table, host_size(engines[0]), 3)


@pytest.mark.parametrize("kind", ["auto", "sequential", "population"])
def test_every_engine_gives_the_same_first_validation(kind: str) -> None:
    trainer = make_trainer(EngineConfig(kind=kind))  # type: ignore[arg-type]
    assert isinstance(trainer, OneByOne) == (kind == "sequential")
    alone, together = ([make_trial(make_request(0, env_id=i)) for i in range(4)] for _ in range(2))
    expected = [trial.reset().val_accuracy for trial in alone]
    made = {trial.request.env_id: trial for trial in together}
    batch = TrialBatch(lambda request: made[request.env_id], trainer)
    reports = batch.start([trial.request for trial in together])
    assert [report.val_accuracy for report in reports] == pytest.approx(expected)


def test_members_are_divided_evenly_and_answered_in_their_order() -> None:
    sizes: list[int] = []

    def at_most(members: Sequence[Engine]) -> int:
        sizes.append(len(members))
        return 2

    engines = [make_trial(make_request(0, env_id=i)).engine for i in range(5)]
    expected = [engine.evaluate("val", ((),)) for engine in engines]
    answers = Together(at_most).answer([(engine, Evaluate("val", ((),))) for engine in engines])
    assert [answer.losses[0] for answer in answers] == pytest.approx([one.losses[0] for one in expected], abs=1e-5)  # type: ignore[union-attr]
    assert sizes == [5]
