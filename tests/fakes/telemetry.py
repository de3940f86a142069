"""Events of an invented run, with the shape of a real one, and transports that misbehave on demand."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry.event import TelemetryEvent, TelemetryEventType, TelemetryPayload
from esper.leyline.telemetry.infra import HeartbeatPayload
from esper.leyline.telemetry.kasmina import SeedFossilizedPayload, SeedGerminatedPayload
from esper.leyline.telemetry.run import RunFinishedPayload, TrainingStartedPayload
from esper.leyline.telemetry.schema import record_batch
from esper.leyline.telemetry.simic import AnomalyDetectedPayload, EpisodeOutcomePayload, RewardComputedPayload
from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.leyline.telemetry.tolaria import TolariaBatchPayload, TolariaEpochPayload
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import BatchId, decode, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from esper.nissa.sinks.base import DurableSink

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CONTEXTS = ("digits/atten", "texture/linear", "recall/noattn")
BEST_PLACE = {"digits/atten": "r0c1:norm", "texture/linear": "r0c0:conv", "recall/noattn": "r0c2:attention"}


def event(event_type: str, payload: TelemetryPayload, second: float = 0.0) -> TelemetryEvent:
    """An event at a known time."""
    return TelemetryEvent(TelemetryEventType[event_type], payload, timestamp=START + timedelta(seconds=second))


def heartbeat(uptime_sec: float = 1.0) -> TelemetryEvent:
    """A small event whose number tells it apart."""
    return event("HEARTBEAT", HeartbeatPayload(source="test", uptime_sec=uptime_sec, training_thread_alive=True), uptime_sec)


def read_rows(sink: DuckDBSink, sql: str) -> list[dict[str, Any]]:
    """What `sql` finds in the file of an open sink."""
    with closing(sink.open_reader()) as reader:
        rows: list[dict[str, Any]] = reader.sql(sql).to_arrow_table().to_pylist()
        return rows


def fold_in(sink: DuckDBSink) -> None:
    """Fold the log of an open sink into its file."""
    with closing(sink.open_reader()) as reader:
        reader.execute("CHECKPOINT")


def heartbeat_batch(
    seq: int, *, incarnation: int = 0, source: str = "env-0", after: int | None = None, num_rows: int = 1
) -> pa.RecordBatch:
    """A stamped batch of heartbeats whose uptime is `seq`."""
    identity = BatchId(source, incarnation, seq, seq - 1 if after is None else after, "HEARTBEAT")
    return stamp(record_batch([heartbeat(float(seq))] * num_rows), identity)


def one_round(round_idx: int, *, n_envs: int = 8, skill: float = 1.0, rng: np.random.Generator) -> Iterator[TelemetryEvent]:
    """Events of one round: every env plays one episode, then two passes of PPO."""
    second = 10.0 * round_idx
    utilities = []
    for env_id in range(n_envs):
        context = CONTEXTS[(env_id + round_idx) % len(CONTEXTS)]
        finds_it = rng.random() < skill
        slot, blueprint = (BEST_PLACE[context] if finds_it else f"r0c{rng.integers(3)}:mlp").split(":")
        utility = (75.0 if finds_it else 35.0) + 6.0 * float(rng.normal())
        utilities.append(utility)
        where = {"slot_id": slot, "env_id": env_id, "blueprint_id": blueprint, "episode_idx": round_idx}
        yield event("SEED_GERMINATED", SeedGerminatedPayload(params=40, **where), second)  # type: ignore[arg-type]
        for epoch in (1, 2):
            yield event(
                "TOLARIA_EPOCH_COMPLETED",
                TolariaEpochPayload(
                    env_id=env_id, val_accuracy=utility, val_loss=1.0, inner_epoch=epoch, episode_idx=round_idx, train_loss=0.5
                ),
                second + epoch,
            )
            yield event(
                "REWARD_COMPUTED",
                RewardComputedPayload(
                    env_id=env_id, total_reward=1.5, action_name="WAIT", value_estimate=1.0, action_confidence=0.5, episode_idx=round_idx
                ),
                second + epoch,
            )
        worth = 12.0 if finds_it else -3.0
        fossil = SeedFossilizedPayload(improvement=10.0, params_added=40, counterfactual=worth, **where)  # type: ignore[arg-type]
        yield event("SEED_FOSSILIZED", fossil, second + 2)
        yield event("EPISODE_OUTCOME", outcome(env_id, round_idx, utility, context=context, kept=(f"{slot}:{blueprint}",)), second + 3)
    for index in (1, 2):
        update = TamiyoPolicyUpdatePayload(
            policy_loss=0.1,
            value_loss=0.2,
            entropy=3.0 - 2.0 * skill,
            grad_norm=1.0,
            kl_divergence=0.01 * index,
            clip_fraction=0.1,
            nan_grad_count=0,
            explained_variance=0.8 * skill / index,
            ppo_update_idx=index,
            pre_clip_grad_norm=2.5,
            batch=round_idx,
            env_steps=2 * n_envs * (round_idx + 1),
            head_op_entropy=0.5,
        )
        yield event("TAMIYO_POLICY_UPDATE", update, second + 4)
    batch = TolariaBatchPayload(
        episodes_completed=n_envs * (round_idx + 1),
        batch_idx=round_idx,
        avg_accuracy=float(np.mean(utilities)),
        avg_reward=2.0,
        total_episodes=400,
        n_envs=n_envs,
        avg_utility=float(np.mean(utilities)),
        env_steps=2 * n_envs * (round_idx + 1),
        env_steps_per_sec=123.0,
        wall_sec=2.5,
    )
    yield event("TOLARIA_BATCH_COMPLETED", batch, second + 5)


def whole_run(rounds: int, *, n_envs: int = 8, seed: int = 0) -> Iterator[TelemetryEvent]:
    """Events of a run that learns where to grow."""
    rng = np.random.default_rng(seed)
    yield event("TRAINING_STARTED", started(n_envs), -1.0)
    for round_idx in range(rounds):
        yield from one_round(round_idx, n_envs=n_envs, skill=min(1.0, 0.1 + round_idx / max(rounds - 1, 1)), rng=rng)
    anomaly = AnomalyDetectedPayload("ratio", episode=3, batch=1, inner_epoch=1, total_episodes=400, detail="ratio 9.1 is above 5")
    yield event("RATIO_EXPLOSION_DETECTED", anomaly, 15.0)
    finished = RunFinishedPayload(
        episodes=rounds * n_envs, env_steps=2 * rounds * n_envs, wall_sec=60.0, env_steps_per_sec=100.0, stop_reason="completed"
    )
    yield event("RUN_FINISHED", finished, 10.0 * rounds + 1)


def outcome(
    env_id: int, episode_idx: int, utility: float, *, context: str = "digits/atten", split: str = "train", kept: Sequence[str] = ()
) -> EpisodeOutcomePayload:
    """The end of one episode."""
    return EpisodeOutcomePayload(
        env_id=env_id,
        episode_idx=episode_idx,
        final_accuracy=utility + 2.0,
        param_ratio=1.1,
        num_fossilized=len(kept),
        num_contributing_fossilized=len(kept),
        episode_reward=3.0,
        stability_score=0.9,
        context=context,
        split=split,
        utility=utility,
        kept=tuple(kept),
    )


def started(n_envs: int) -> TrainingStartedPayload:
    """The beginning of a run."""
    return TrainingStartedPayload(
        n_envs=n_envs,
        max_epochs=12,
        task="image-mix",
        host_params=774,
        slot_ids=("r0c0", "r0c1", "r0c2"),
        seed=7,
        n_episodes=400,
        lr=1e-3,
        clip_ratio=0.2,
        entropy_coef=0.01,
        param_budget=10_000,
        policy_device="cpu",
        env_devices=("cpu",),
        versions={"torch": "2.13", "esper-morph": "0.1.0"},
    )


def record_run(folder: Path, lives: Iterable[Iterable[TelemetryEvent]]) -> Path:
    """Write a run's telemetry; each of `lives` has an incarnation of its own."""
    sink = DuckDBSink(folder / "telemetry.duckdb", views=view_statements())
    for incarnation, events in enumerate(lives):
        emitter = BufferedEmitter("driver", incarnation, transport=InProcessTransport(sink), config=TelemetryConfig())
        for one in events:
            emitter.emit(one)
        emitter.close()
    sink.close()
    return folder


class FlakyTransport:
    """A queue to `sink` that can be full, lose what it carries, or hold it until drained."""

    def __init__(self, sink: DurableSink) -> None:
        self._sink = sink
        self.queue: list[bytes] = []
        self.is_full = False
        self.num_refused = 0
        self.num_hurries = 0

    def try_put(self, batches: Sequence[bytes]) -> bool:
        """Queue, unless full."""
        if self.is_full:
            self.num_refused += 1
            return False
        self.queue += batches
        return True

    def acknowledged(self, source: str, incarnation: int) -> int:
        """What the sink has stored."""
        return self._sink.high_water_mark(source, incarnation)

    def hurry(self) -> None:
        """Count."""
        self.num_hurries += 1

    def lose(self) -> None:
        """Forget everything queued, as when the queue's process dies."""
        self.queue.clear()

    def drain(self) -> None:
        """Let the sink catch up."""
        queued, self.queue = self.queue, []
        self._sink.write([decode(payload) for payload in queued])


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_sec = 0.0

    def __call__(self) -> float:
        return self.now_sec

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_sec += seconds
