"""Trials: tasks, host training, counterfactual evaluation, and the governor that watches over both."""

from esper.tolaria.config import TaskConfig as TaskConfig
from esper.tolaria.engine.base import Engine as Engine
from esper.tolaria.engine.base import EngineConfig as EngineConfig
from esper.tolaria.engine.base import OneByOne as OneByOne
from esper.tolaria.engine.base import TrainingPlan as TrainingPlan
from esper.tolaria.engine.sequential import SequentialEngine as SequentialEngine
from esper.tolaria.governor import GovernorConfig as GovernorConfig
from esper.tolaria.governor import TolariaGovernor as TolariaGovernor
from esper.tolaria.trial import EpisodeRequest as EpisodeRequest
from esper.tolaria.trial import Trial as Trial
from esper.tolaria.trial import TrialBatch as TrialBatch
