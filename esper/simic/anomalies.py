"""What is out of bounds in an update: found pass by pass, or by comparison with the updates before.

Extremes of single samples cross any bound sooner or later in a healthy run; ratios are therefore judged by what lies beyond one
sample in a hundred. Functions are pure and name findings; the caller tells them.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from esper.leyline.actions import HEAD_NAMES
from esper.leyline.telemetry.event import Severity, TelemetryEventType
from esper.leyline.telemetry.simic import AnomalyDetectedPayload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.simic.passes import PassReport
    from esper.simic.update_report import UpdateReport

MAX_RATIO = 5.0
MIN_RATIO = 0.1
MAX_VALUE_LOSS = 5.0
"""In squared standard deviations of the returns, so that 0.5 is a critic that knows only their mean."""
MAX_BELLMAN_ERROR = 5.0
"""In variances of the returns."""
MIN_SPREAD_EPISODES = 4
"""Episodes of a round from which the spread of their returns is a measure for errors; two may happen to return nearly the same."""
GRADIENT_WARNING, GRADIENT_ERROR = 50.0, 100.0
"""Norm before clipping, as a mean over the steps of a pass."""
MAX_KL, EXTREME_KL = 0.1, 0.5
LOW_ENTROPY = 0.1
MIN_STABILITY = 0.9
MAX_SICK_LAYERS = 0.5
"""Share of parameter tensors with a dead or exploding gradient."""
HEAD_COLLAPSE: Mapping[str, float] = {
    "op": 0.08,
    "slot": 0.10,
    "blueprint": 0.05,
    "style": 0.08,
    "tempo": 0.05,
    "alpha_target": 0.08,
    "alpha_speed": 0.08,
    "alpha_curve": 0.08,
}
"""Normalised entropy below which a head has collapsed."""
COLLAPSE_UPDATES = 3
"""Updates in a row that a head must be collapsed to be told."""
COLLAPSE_RECOVERY = 1.5
"""Multiple of its bound at which a head is called recovered."""
DRIFT_DECADES = 0.5
"""Decimal orders of magnitude between an update's gradient norm and its running mean that are told as drift."""
DRIFT_DECAY, DRIFT_UPDATES = 0.9, 5
"""Weight of the past in that mean, and updates before it is trusted."""

Evidence = Literal["gradient", "stability", "ratio"]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding."""

    event_type: TelemetryEventType
    name: str
    """What kind of finding, e.g. `entropy_collapse`; several kinds share an event type."""
    pass_index: int
    """1, 2, 3 … within the update."""
    detail: str
    kind: Evidence
    evidence: Mapping[str, float] = field(default_factory=dict)
    severity: Severity = "warning"


def update_anomalies(report: UpdateReport) -> tuple[Anomaly, ...]:
    """Everything wrong with one update by itself. Explained variance is a diagnostic and raises no alarm.

    Value loss and Bellman error are errors in units of the returns' spread, and judged from `MIN_SPREAD_EPISODES` on.
    """
    found = [anomaly for index, done in enumerate(report.passes, start=1) for anomaly in _pass_findings(done, index)]
    return (*found, *(_value_findings(report) if report.num_episodes >= MIN_SPREAD_EPISODES else ()))


class UpdateMonitor:
    """Watches one learner's updates; adds to `update_anomalies` what only several updates show.

    anomalies = monitor.look(learner.update())
    """

    def __init__(self) -> None:
        self._low_updates: Counter[str] = Counter()
        self._log_norm: float | None = None
        self._num_norms = 0

    def to_json(self) -> dict[str, Any]:
        """What a continued run needs to go on as this one would have."""
        return {"low_updates": dict(self._low_updates), "log_norm": self._log_norm, "num_norms": self._num_norms}

    def load_json(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_json` saved."""
        self._low_updates = Counter(state["low_updates"])
        self._log_norm, self._num_norms = state["log_norm"], state["num_norms"]

    def look(self, report: UpdateReport) -> tuple[Anomaly, ...]:
        """Findings about the newest update."""
        return (*update_anomalies(report), *self._collapsed_heads(report), *self._gradient_drift(report))

    def _collapsed_heads(self, report: UpdateReport) -> Iterator[Anomaly]:
        last = len(report.passes)
        for name in HEAD_NAMES:
            entropy, bound = report.passes[-1].policy.heads[name].entropy, HEAD_COLLAPSE[name]
            if entropy is None:
                continue
            if entropy > COLLAPSE_RECOVERY * bound:
                self._low_updates[name] = 0
            elif entropy < bound:
                self._low_updates[name] += 1
                if self._low_updates[name] == COLLAPSE_UPDATES:
                    detail = f"entropy of head {name} was below {bound} in {COLLAPSE_UPDATES} updates, now {entropy:.3g}"
                    evidence = {f"head_{name}_entropy": entropy}
                    yield Anomaly(TelemetryEventType.GRADIENT_ANOMALY, "head_collapse", last, detail, "stability", evidence)

    def _gradient_drift(self, report: UpdateReport) -> Iterator[Anomaly]:
        norms = [done.gradients.pre_clip_grad_norm for done in report.passes]
        usable = [norm for norm in norms if norm is not None and norm > 0.0]
        if not usable:
            return
        norm, usual = math.log10(statistics.median(usable)), self._log_norm
        if usual is not None and self._num_norms >= DRIFT_UPDATES and abs(norm - usual) > DRIFT_DECADES:
            detail = f"gradient norm {10**norm:.3g} is far from its running mean {10**usual:.3g}"
            evidence = {"pre_clip_grad_norm": 10**norm, "running_mean": 10**usual}
            yield Anomaly(TelemetryEventType.GRADIENT_ANOMALY, "gradient_drift", len(report.passes), detail, "gradient", evidence)
        self._log_norm = norm if usual is None else DRIFT_DECAY * usual + (1.0 - DRIFT_DECAY) * norm
        self._num_norms += 1


def anomaly_payload(anomaly: Anomaly, *, batch: int, episode: int, total_episodes: int) -> AnomalyDetectedPayload:
    """What telemetry tells of a finding; `batch` and `episode` count rounds and episodes in the run so far."""
    return AnomalyDetectedPayload(
        anomaly_type=anomaly.name,
        episode=episode,
        batch=batch,
        inner_epoch=anomaly.pass_index,
        total_episodes=total_episodes,
        detail=anomaly.detail,
        gradient_stats=anomaly.evidence if anomaly.kind == "gradient" else None,
        stability=anomaly.evidence if anomaly.kind == "stability" else None,
        ratio_diagnostic=anomaly.evidence if anomaly.kind == "ratio" else None,
    )


def _pass_findings(done: PassReport, index: int) -> Iterator[Anomaly]:
    yield from _ratio_findings(done, index)
    yield from _gradient_findings(done, index)
    entropy = done.policy.entropy
    if entropy is not None and entropy < LOW_ENTROPY:
        detail = f"mean entropy {entropy:.3g} is below {LOW_ENTROPY}"
        yield Anomaly(TelemetryEventType.GRADIENT_ANOMALY, "entropy_collapse", index, detail, "stability", {"entropy": entropy})


def _ratio_findings(done: PassReport, index: int) -> Iterator[Anomaly]:
    policy = done.policy
    evidence = _measured(ratio_min=policy.ratio_min, ratio_p01=policy.ratio_p01, ratio_p99=policy.ratio_p99, ratio_max=policy.ratio_max)
    if any(not math.isfinite(value) for value in evidence.values()):
        detail = "probability ratios are not finite"
        yield Anomaly(TelemetryEventType.RATIO_EXPLOSION_DETECTED, "ratio_explosion", index, detail, "ratio", evidence, "error")
        return
    if policy.ratio_p99 is not None and policy.ratio_p99 > MAX_RATIO:
        detail = f"more than one ratio in a hundred is above {MAX_RATIO}, the largest {policy.ratio_max:.3g}"
        yield Anomaly(TelemetryEventType.RATIO_EXPLOSION_DETECTED, "ratio_explosion", index, detail, "ratio", evidence)
    if policy.ratio_p01 is not None and policy.ratio_p01 < MIN_RATIO:
        detail = f"more than one ratio in a hundred is below {MIN_RATIO}, the smallest {policy.ratio_min:.3g}"
        yield Anomaly(TelemetryEventType.RATIO_COLLAPSE_DETECTED, "ratio_collapse", index, detail, "ratio", evidence)
    kl = policy.kl_divergence
    if kl is not None and kl > MAX_KL:
        detail = f"KL {kl:.3g} from the acting policy is above {MAX_KL}"
        severity: Severity = "error" if kl > EXTREME_KL else "warning"
        spike = _measured(kl_divergence=kl, approx_kl_max=policy.approx_kl_max)
        yield Anomaly(TelemetryEventType.RATIO_EXPLOSION_DETECTED, "kl_spike", index, detail, "ratio", spike, severity)


def _gradient_findings(done: PassReport, index: int) -> Iterator[Anomaly]:
    gradients = done.gradients
    broken = gradients.nan_grad_count + gradients.inf_grad_count
    if broken or not math.isfinite(done.policy_loss + done.value_loss):
        counts = {"nan_grad_count": float(gradients.nan_grad_count), "inf_grad_count": float(gradients.inf_grad_count)}
        detail = f"{broken} gradient elements are not finite"
        yield Anomaly(
            TelemetryEventType.NUMERICAL_INSTABILITY_DETECTED, "numerical_instability", index, detail, "gradient", counts, "error"
        )
    score = done.policy.numerical_stability_score
    if score is not None and score < MIN_STABILITY:
        detail = f"log-probabilities underflow or ratios are clamped, stability score {score:.3g}"
        evidence = {"numerical_stability_score": score}
        yield Anomaly(TelemetryEventType.NUMERICAL_INSTABILITY_DETECTED, "log_prob_underflow", index, detail, "stability", evidence)
    norm = gradients.pre_clip_grad_norm
    if norm is not None and norm > GRADIENT_WARNING:
        severity: Severity = "error" if norm > GRADIENT_ERROR else "warning"
        detail = f"gradient norm {norm:.3g} is above {GRADIENT_ERROR if severity == 'error' else GRADIENT_WARNING}"
        evidence = _measured(pre_clip_grad_norm=norm, grad_norm=gradients.grad_norm)
        yield Anomaly(TelemetryEventType.GRADIENT_ANOMALY, "gradient_norm", index, detail, "gradient", evidence, severity)
    yield from _layer_findings(done, index)


def _layer_findings(done: PassReport, index: int) -> Iterator[Anomaly]:
    gradients, num_layers = done.gradients, len(done.gradients.grad_norm_per_layer)
    sick = {
        "dead_layers": float(gradients.dead_layers),
        "exploding_layers": float(gradients.exploding_layers),
        "grad_nan_layers": float(len(gradients.grad_nan_layers)),
    }
    if num_layers and (max(sick["dead_layers"], sick["exploding_layers"]) > MAX_SICK_LAYERS * num_layers or gradients.grad_nan_layers):
        detail = f"of {num_layers} parameter tensors " + ", ".join(f"{int(count)} {name.split('_')[-2]}" for name, count in sick.items())
        yield Anomaly(TelemetryEventType.GRADIENT_PATHOLOGY_DETECTED, "gradient_pathology", index, detail, "gradient", sick)


def _value_findings(report: UpdateReport) -> Iterator[Anomaly]:
    """Errors of the critic in units of the returns' spread; the caller asks only of a round with `MIN_SPREAD_EPISODES`."""
    for index, done in enumerate(report.passes, start=1):
        if done.value_loss > MAX_VALUE_LOSS:
            detail, evidence = f"value loss {done.value_loss:.3g} is above {MAX_VALUE_LOSS}", {"value_loss": done.value_loss}
            yield Anomaly(TelemetryEventType.VALUE_COLLAPSE_DETECTED, "value_collapse", index, detail, "stability", evidence)
    values = report.values
    if values.ev_low_return_variance or report.is_std_floored:
        return  # errors in units of a spread that is hardly there would be large for no reason
    relative = values.bellman_error / values.return_std**2
    if relative > MAX_BELLMAN_ERROR:
        detail = f"Bellman error is {relative:.3g} variances of the returns, above {MAX_BELLMAN_ERROR}"
        evidence = {"bellman_error": values.bellman_error, "return_std": values.return_std}
        yield Anomaly(TelemetryEventType.VALUE_COLLAPSE_DETECTED, "bellman_error", 1, detail, "stability", evidence)


def _measured(**numbers: float | None) -> dict[str, float]:
    return {name: number for name, number in numbers.items() if number is not None}
