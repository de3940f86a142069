"""A sweep on Ray Tune: its trials, schedulers and search, and what is recorded while it goes on."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining

from esper.distributed import actors
from esper.distributed.cluster_check import require_placement, starts_cluster, this_machine
from esper.distributed.facts import RunFacts, examine
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.placement import trial_bundles, trial_demands, trial_labels
from esper.distributed.sweep.recorder import Recorder
from esper.distributed.sweep.trial import SweepTrial, trial_config
from esper.karn.sweeps import SweepStore
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.tune.schedulers import TrialScheduler

    from esper.distributed.sweep.config import Sweep
    from esper.distributed.sweep.space import Parameter, Point, Space
    from esper.karn.sweeps import RoundResult

KEPT_CHECKPOINTS = 10
"""Per trial, by Tune: what its last note of the sweep's state names must still be there when the sweep is continued."""
EARLY_FRAC = 0.95
"""A rung counts as reached with so much of its environment steps: episodes that the governor stops are shorter."""
NUM_DRAWS = 1000
HOST_SECTIONS = ("growth",)
"""Settings that hosts are built with; those of tasks do not vary."""
STATE_PERIOD_SEC = 2
"""Between two notes of Tune's on how far the sweep is."""


def run_sweep(sweep: Sweep, folder: SweepDir, *, resume: bool) -> bool:
    """Play all trials, or what is left of them.

    Returns:
        Whether the user stopped it before its end.

    Raises:
        ConfigError: If something that the runs name does not exist.
        ClusterError: If a trial asks for more than the cluster has.
    """
    base = sweep.base
    facts = examine(base)
    _examine_hosts(sweep)
    wanted = trial_demands(base, local=sweep.config.local)
    if starts_cluster(base.cluster.address, os.environ):
        require_placement("a trial", wanted, [this_machine()])
    _quieten()
    actors.open_session(base.cluster, namespace=f"esper-sweep-{folder.root.name}")
    try:
        require_placement("a trial", wanted, actors.cluster_nodes())
        with _sigterm_as_interrupt():
            _make_tuner(sweep, folder, facts, resume=resume).fit()
    finally:
        actors.close_session()
    ended = [trial for trial in SweepStore(folder.database).trials() if trial.record.status in ("completed", "stopped", "failed")]
    return len(ended) < (len(sweep.points) if sweep.points is not None else sweep.config.num_trials)


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """`SweepTrial` as Ray Tune calls it. An actor may play one trial after another."""

    def setup(self, config: dict[str, Any], sweep: Sweep, root: str) -> None:
        """Prepare a trial; it takes its folder with its first round, or with what it goes on from."""
        self._sweep, self._root = sweep, root
        self._point: Point = config["point"]
        self._trial = self._make()

    def step(self) -> dict[str, Any]:
        """Play a round; the scheduler may change the trial's settings before others hear of the result, so it names its own."""
        result = self._trial.play()
        return {**_reported(result), "point": self._point, "done": self._trial.is_finished}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Put what the trial can go on from into a folder."""
        self._trial.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Go on from such a folder."""
        assert checkpoint is not None
        self._trial.restore(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, or the same one with other settings."""
        self._trial.close()
        self._point = new_config["point"]
        self._trial = self._make()
        return True

    def cleanup(self) -> None:
        """End the run, so that its telemetry is complete."""
        self._trial.close()

    def _make(self) -> SweepTrial:
        sweep = self._sweep
        return SweepTrial(
            trial_config(sweep, self._point),
            SweepDir(Path(self._root)).trial(self.trial_id),
            trial_id=self.trial_id,
            local=sweep.config.local,
            recent_rounds=sweep.config.recent_rounds,
            evaluates=sweep.evaluates,
        )


class Explorer:
    """Chooses the settings with which a trial goes on from another one's weights.

    Args:
        sweep: Whose space and seed.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._rng = SeedTree(sweep.config.seed).child("explore").numpy()

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """Settings of the better trial → settings near them that a run can have.

        Raises:
            ConfigError: If none is found.
        """
        sweep = self._sweep
        for _ in range(NUM_DRAWS):
            point = sweep.space.explore(config["point"], self._rng, resample_frac=sweep.config.scheduler.resample_frac)
            try:
                sweep.run_config(point)
            except ConfigError:
                continue
            return {**config, "point": point}
        raise ConfigError(f"no settings near {config['point']} that a run can have were found in {NUM_DRAWS} draws; narrow the space")


class OptunaSpace:
    """The space as Optuna wants it: a function of a trial that asks for values.

    Args:
        space: What varies.
    """

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Ask for every parameter that applies; an option of a choice is known by its place, since it may be a list."""

        def suggest(parameter: Parameter) -> Any:
            if parameter.kind == "choice":
                return parameter.values[trial.suggest_categorical(parameter.key, range(len(parameter.values)))]
            low, high = parameter.values
            if parameter.kind == "randint":
                return trial.suggest_int(parameter.key, low, high)
            return trial.suggest_float(parameter.key, low, high, log=parameter.kind == "loguniform")

        return {f"point/{key}": value for key, value in self._space.walk(suggest).items()}


def make_scheduler(sweep: Sweep, facts: RunFacts) -> TrialScheduler:
    """What decides which trials may go on."""
    chosen, base = sweep.config.scheduler, sweep.base
    if chosen.kind == "asha":
        per_round = base.rollout.num_envs * facts.max_epochs
        return AsyncHyperBandScheduler(
            time_attr="env_steps",
            grace_period=EARLY_FRAC * chosen.grace_rounds * per_round,
            max_t=base.rollout.rounds * per_round,
            reduction_factor=chosen.reduction_factor,
            stop_last_trials=False,
        )
    if chosen.kind == "pbt":
        return PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=chosen.perturb_rounds,
            quantile_fraction=chosen.quantile_frac,
            custom_explore_fn=Explorer(sweep),
            log_config=False,
        )
    return FIFOScheduler()


def _examine_hosts(sweep: Sweep) -> None:
    """Build hosts with every end and option of what concerns them, which the settings alone cannot vouch for."""
    for parameter in sweep.space.parameters:
        if parameter.key.partition(".")[0] in HOST_SECTIONS:
            for value in parameter.values:
                needed = {key: allowed[0] for key, allowed in parameter.when}
                try:
                    examine(sweep.run_config({**needed, parameter.key: value}))
                except (ConfigError, ValueError) as error:
                    raise ConfigError(f"space.{parameter.key}.{parameter.kind}={list(parameter.values)!r}: {error}") from error


def _make_tuner(sweep: Sweep, folder: SweepDir, facts: RunFacts, *, resume: bool) -> tune.Tuner:
    base, local = sweep.base, sweep.config.local
    trainable = tune.with_resources(
        tune.with_parameters(TuneTrial, sweep=sweep, root=str(folder.root)),
        tune.PlacementGroupFactory(
            trial_bundles(base, local=local), strategy=base.cluster.env_placement, bundle_label_selector=trial_labels(base, local=local)
        ),
    )
    if resume and tune.Tuner.can_restore(str(folder.tune)):
        return tune.Tuner.restore(str(folder.tune), trainable, resume_unfinished=True, resume_errored=True)
    config = sweep.config
    return tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(list(sweep.points))} if sweep.points is not None else None,
        tune_config=tune.TuneConfig(
            metric=config.metric,
            mode=config.mode,
            num_samples=1 if sweep.points is not None else config.num_trials,
            max_concurrent_trials=config.max_concurrent,
            scheduler=make_scheduler(sweep, facts),
            search_alg=None if sweep.points is not None else _optuna(sweep),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=folder.tune.name,
            storage_path=str(folder.root),
            callbacks=[Recorder(sweep, folder.database)],
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS, checkpoint_frequency=1),
            verbose=0,
        ),
    )


def _optuna(sweep: Sweep) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = sweep.config
    return OptunaSearch(OptunaSpace(sweep.space), metric=config.metric, mode=config.mode, seed=config.seed)


def _reported(result: RoundResult) -> dict[str, Any]:
    """What is measured; Tune takes no None."""
    return {name: value for name, value in asdict(result).items() if value is not None}


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _quieten() -> None:
    """Tune's own output and files are not wanted; trials stay in the user's folder, as relative paths in their settings mean it."""
    settings = {
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": str(STATE_PERIOD_SEC),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told by the recorder, in one line


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: Tune notes how far it is and ends. Tune's own answer to Ctrl-C, which it leaves behind, goes too."""
    previous = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(number, handler)
