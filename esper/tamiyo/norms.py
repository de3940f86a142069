"""How measurements without a natural scale are normalised: metrics by what was seen so far, blueprint numbers by fixed priors.

The running statistics move between updates only, so that a rollout and the passes over it see one normalisation.
"""

# ruff: noqa: F722 (shapes in annotations, which tests check at run time)

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from esper.tamiyo.features import METRICS
from esper.tamiyo.graph_spec import METRIC_CHANNELS, METRIC_LIMIT, METRIC_MASKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float

    from esper.leyline.graph import GraphBatch

NORMS_VERSION = 1
EWMA_WEIGHT = 0.1
"""Weight α of the newest observations."""
EPSILON = 1e-6
"""Added to every variance."""
SCORE_LIMIT = 5.0
"""No value counts as further from the mean than this many deviations. Scores are told as shares of it, so that none outweighs features
that are bounded by 1."""
METRIC_PRIORS: Mapping[str, tuple[float, float]] = {
    "step_loss": (0.8, 0.3),
    "step_gradient_norm": (1.0, 0.5),
    "samples_per_s": (4500.0, 500.0),
    "hook_latency_ms": (12.0, 6.0),
}
"""Mean and standard deviation before anything was seen."""


class NormsError(ValueError):
    """Statistics that cannot be used; the message names what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class FeatureNorms:
    """Mean and variance of each of `METRICS`, in that order."""

    mean: tuple[float, ...] = tuple(METRIC_PRIORS[name][0] for name in METRICS)
    var: tuple[float, ...] = tuple(METRIC_PRIORS[name][1] ** 2 for name in METRICS)

    def __post_init__(self) -> None:
        """Refuse what cannot divide.

        Raises:
            NormsError: If there is not one finite mean and one finite variance of at least 0 per metric.
        """
        for name, values, least in (("mean", self.mean, -math.inf), ("var", self.var, 0.0)):
            if len(values) != len(METRICS) or not all(math.isfinite(v) and v >= least for v in values):
                raise NormsError(f"{name}={values} should be {len(METRICS)} finite numbers, one for each of {METRICS}, no var below 0")

    def updated(self, values: np.ndarray) -> FeatureNorms:
        """Statistics after K more observations, which together have the weight α (West 1979).

            δ = m − μ,   μ' = μ + α δ,   σ²' = (1 − α)(σ² + α δ²) + α v

        with m, v the mean and variance of the observations. They are first brought to within 5σ of μ, so that one runaway
        value does not blind the policy; where the level truly moved, σ grows by three quarters per update until it is reached.

        Args:
            values: [K, 4]; NaN where not measured. A metric nobody measured keeps its statistics.
        """
        mean, var = list(self.mean), list(self.var)
        for i, column in enumerate(np.asarray(values, dtype=np.float64).reshape(-1, len(METRICS)).T):
            seen = column[np.isfinite(column)]
            if not len(seen):
                continue
            reach = SCORE_LIMIT * math.sqrt(var[i] + EPSILON)
            seen = np.clip(seen, mean[i] - reach, mean[i] + reach)
            change = float(seen.mean()) - mean[i]
            var[i] = (1.0 - EWMA_WEIGHT) * (var[i] + EWMA_WEIGHT * change**2) + EWMA_WEIGHT * float(seen.var())
            mean[i] += EWMA_WEIGHT * change
        return FeatureNorms(tuple(mean), tuple(var))

    def to_json(self) -> str:
        """Text of `gnn_norms.json`."""
        metrics = {name: {"mean": m, "var": v} for name, m, v in zip(METRICS, self.mean, self.var, strict=True)}
        return json.dumps({"version": NORMS_VERSION, "alpha": EWMA_WEIGHT, "epsilon": EPSILON, "metrics": metrics}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> FeatureNorms:
        """Read what `to_json` wrote.

        Raises:
            NormsError: If the text is something else, or of another version.
        """
        try:
            values = json.loads(text)
            version, metrics = values["version"], values["metrics"]
            mean, var = (tuple(float(metrics[name][key]) for name in METRICS) for key in ("mean", "var"))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise NormsError(f"norms should be JSON with version and metrics {METRICS}, each with mean and var: {error!r}") from error
        if version != NORMS_VERSION:
            raise NormsError(f"norms version {version!r} cannot be read; this is version {NORMS_VERSION}")
        return cls(mean, var)


def observed_metrics(batch: GraphBatch) -> np.ndarray:
    """The metrics [K, 4] of the graphs that have a layer, one row each; NaN where not measured."""
    counts = batch.num_nodes["layer"]
    first = (np.cumsum(counts) - counts)[counts > 0]
    rows = batch.nodes["layer"][first]
    return np.where(rows[:, METRIC_MASKS] > 0.0, rows[:, METRIC_CHANNELS], np.nan).astype(np.float64)


class MetricNormalisation(nn.Module):
    """Replaces the unscaled metrics of layer nodes by their scores, clipped, and 0 where not measured.

    Its statistics are buffers, so that they are stored and resumed with the weights.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norms: FeatureNorms | None = None) -> None:
        """Begin with `norms`, or with the priors."""
        super().__init__()
        start = norms or FeatureNorms()
        self.register_buffer("mean", torch.tensor(start.mean, dtype=torch.float32))
        self.register_buffer("var", torch.tensor(start.var, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """Layer nodes with normalised metrics: clip((x − μ)/√(σ² + ε)/5, ±1) · mask; all else as it is."""
        metrics = (x[:, METRIC_CHANNELS] - self.mean) * (torch.rsqrt(self.var + EPSILON) / SCORE_LIMIT)
        scores = metrics.clamp(-1.0, 1.0) * x[:, METRIC_MASKS]
        return torch.cat([x[:, : METRIC_CHANNELS.start], scores.to(x.dtype), x[:, METRIC_CHANNELS.stop :]], dim=1)

    @property
    def norms(self) -> FeatureNorms:
        """The statistics in use."""
        return FeatureNorms(tuple(self.mean.tolist()), tuple(self.var.tolist()))

    @norms.setter
    def norms(self, norms: FeatureNorms) -> None:
        self.mean.copy_(torch.tensor(norms.mean))
        self.var.copy_(torch.tensor(norms.var))

    @torch.no_grad()
    def update(self, batch: GraphBatch) -> None:
        """Take the metrics of `batch` into the statistics."""
        self.norms = self.norms.updated(np.clip(observed_metrics(batch), -METRIC_LIMIT, METRIC_LIMIT))


@dataclass(frozen=True, slots=True)
class Prior:
    """What a blueprint's number usually is."""

    mean: float
    std: float
    is_log: bool
    """Whether mean and std are those of log(1 + x)."""

    def score(self, values: np.ndarray) -> np.ndarray:
        """(x − mean)/std/5 of each value, after log(1 + x) where the prior says so, clipped to ±1; NaN stays NaN."""
        scaled = np.log1p(np.maximum(values, 0.0)) if self.is_log else np.asarray(values)
        result: np.ndarray = np.clip((scaled - self.mean) / (SCORE_LIMIT * self.std), -1.0, 1.0)
        return result


PARAMETER_COUNT = Prior(8.25, 3.13, is_log=True)
"""Over all blueprints of the catalogue at 8, 16, … 512 channels; `python -m benchmarks.blueprint_priors` computes it anew."""
LEARNING_RATE = Prior(0.01, 0.005, is_log=True)
MOMENTUM = Prior(0.9, 0.05, is_log=False)
GRADIENT_VARIANCE = Prior(0.001, 0.0005, is_log=True)
