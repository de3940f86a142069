from __future__ import annotations

import io

import pyarrow as pa
from rich.console import Console

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.run import RunFinishedPayload
from esper.leyline.telemetry.schema import record_batch
from esper.nissa.sinks.console import ConsoleSink
from esper.nissa.wire import BatchId, stamp
from tests.fakes.telemetry import event, heartbeat_batch, whole_run


def printed(level: str, rounds: int = 2) -> list[str]:
    stream = io.StringIO()
    sink = ConsoleSink(level, Console(file=stream, width=300))  # type: ignore[arg-type]
    for seq, one in enumerate(whole_run(rounds, n_envs=3), 1):
        sink.write([stamp(record_batch([one]), BatchId("driver", 0, seq, seq - 1, one.event_type.name))])
    sink.close()
    return stream.getvalue().splitlines()


def test_a_line_for_each_round_and_one_for_the_end() -> None:
    lines = printed("rounds")
    assert len(lines) == 3
    for number, line in enumerate(lines[:2]):
        assert line.startswith(f"round   {number}")
        assert f"episodes {3 * (number + 1)}/400" in line
        assert "123 env-steps/s" in line
        assert "grew r0c" in line
    assert lines[2].startswith("completed: 6 episodes, 12 env steps in 60 s")


def test_what_rounds_to_nothing_has_no_sign() -> None:
    stream = io.StringIO()
    sink = ConsoleSink("rounds", Console(file=stream, width=300))
    for seq, one in enumerate(whole_run(1, n_envs=3), 1):
        batch = record_batch([one])
        if one.event_type is TelemetryEventType.TAMIYO_POLICY_UPDATE:
            index = batch.schema.get_field_index("explained_variance")
            batch = batch.set_column(index, batch.schema.field(index), pa.array([-0.004], pa.float32()))
        sink.write([stamp(batch, BatchId("driver", 0, seq, seq - 1, one.event_type.name))])
    assert "explained variance 0.00  " in stream.getvalue()


def test_growth_is_counted_for_each_round_anew() -> None:
    for line in printed("rounds")[:2]:
        counts = [int(word.rpartition("×")[2]) for word in line.split() if "×" in word]
        assert sum(counts) == 3


def test_detail_adds_what_was_kept_and_what_went_wrong() -> None:
    lines = printed("detail")
    assert sum("kept" in line for line in lines) == 6
    assert any("ratio_explosion_detected" in line and "ratio 9.1" in line for line in lines)


def test_lost_events_are_shown_once_for_each_increase() -> None:
    stream = io.StringIO()
    sink = ConsoleSink("rounds", Console(file=stream, width=200))
    for seq, dropped in enumerate((0, 5, 5, 9), 1):
        sink.write([stamp(heartbeat_batch(seq), BatchId("env-0", 0, seq, seq - 1, "HEARTBEAT", dropped))])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "5 events of env-0" in lines[0]
    assert "9 events of env-0" in lines[1]


def test_the_end_says_what_was_lost_in_all() -> None:
    stream = io.StringIO()
    end = RunFinishedPayload(episodes=1, env_steps=2, wall_sec=3.0, env_steps_per_sec=None, stop_reason="completed", num_events_dropped=17)
    batch = stamp(record_batch([event("RUN_FINISHED", end)]), BatchId("driver", 0, 1, 0, "RUN_FINISHED"))
    ConsoleSink("rounds", Console(file=stream, width=200)).write([batch])
    first, second = stream.getvalue().splitlines()
    assert "(– env-steps/s)" in first
    assert "17 events in all" in second
