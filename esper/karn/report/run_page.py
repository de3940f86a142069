"""A run's report as one HTML page that needs no other file: what was run, how it learned, what grew, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.details import anomalies, anomaly_counts, blueprint_scores, calibrations, incidents, process_lives
from esper.karn.queries import run_overview
from esper.karn.report.figures import as_data_uri
from esper.karn.report.fitness_charts import machine_figure, reward_figure
from esper.karn.report.growth_charts import attribution_figure, fates_figure, timeline_figure
from esper.karn.report.markdown import overview_facts
from esper.karn.report.plots import run_figure
from esper.karn.report.policy_charts import head_figure, policy_figure
from esper.karn.report.step_charts import decision_figure, host_figure
from esper.karn.report.table import HEADINGS, PolicyRow, comparison_cells
from esper.karn.steps import decisions

if TYPE_CHECKING:
    from esper.karn.details import Anomaly
    from esper.karn.store import Store

REPORT_FILE = "report.html"
MAX_DECISIONS = 30
"""Rows of the table of decisions."""
STYLE = (
    "body{font:15px/1.55 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1.2em;color:#222}"
    "h1{font-size:1.6em;margin-bottom:.2em}h2{font-size:1.2em;margin-top:2.2em;padding-bottom:.2em;border-bottom:1px solid #ddd}"
    "img{width:100%;height:auto;display:block;margin:.6em 0}p{max-width:52em}p.note,p.none{color:#666}"
    "table{border-collapse:collapse;font-size:13.5px;margin:.6em 0}th{font-weight:600;color:#555}"
    "td,th{padding:.22em .9em .22em 0;border-bottom:1px solid #eee;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child,td.text,th.text{text-align:left}tr.best{font-weight:bold}"
    ".facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:.3em 1.5em;margin:1em 0}"
    ".facts div{border-left:3px solid #0072B2;padding-left:.6em}.facts span{display:block;color:#666;font-size:12.5px}"
    ".scroll{overflow-x:auto}nav{font-size:13.5px;margin:.8em 0}nav a{margin-right:1em;color:#0072B2;text-decoration:none}"
    "pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12.5px}summary{cursor:pointer;color:#0072B2}"
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a page says beyond what telemetry knows."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's configuration as plain values; empty leaves it out."""
    comparison: Sequence[PolicyRow] = ()
    """Policies side by side; empty leaves them out."""


def write_run_page(store: Store, path: Path, context: Context | None = None) -> Path:
    """Write the page; returns `path`."""
    context = context or Context()
    overview = run_overview(store)
    title = f"Run of {overview.task or 'an unnamed task'}"
    sections = {
        "Learning": _learning(store, context),
        "Policy": _policy(store),
        "Heads": _heads(store),
        "Hosts": _hosts(store),
        "Decisions": _decisions(store),
        "Growth": _growth(store),
        "Rewards": _rewards(store),
        "Attribution": _attribution(store),
        "Anomalies": _anomalies(store),
        "Infrastructure": _infrastructure(store),
        "Settings": _settings(context, overview.versions),
    }
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    facts = "".join(f"<div><span>{escape(name)}</span>{escape(str(value))}</div>" for name, value in overview_facts(overview).items())
    body = "".join(f'<h2 id="{name.lower()}">{name}</h2>\n{content}\n' for name, content in sections.items())
    notice = '<p class="note">The run is alive: this is what it had published last.</p>' if store.is_snapshot else ""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n<h1>{escape(title)}</h1>{notice}\n'
        f'<nav>{links}</nav>\n<div class="facts">{facts}</div>\n{body}</body></html>\n',
        encoding="utf-8",
    )
    return path


def _learning(store: Store, context: Context) -> str:
    picture = _picture(run_figure(store, context.comparison), "Utility by episode, explained variance, entropy, and what grew where")
    if not context.comparison:
        return picture
    return picture + _table(HEADINGS, comparison_cells(context.comparison))


def _policy(store: Store) -> str:
    return _picture(policy_figure(store), "Gradient norms before and after clipping, trust region, value quality, entropy of every head")


def _heads(store: Store) -> str:
    return _picture(head_figure(store), "KL, clipped share, gradient norm and active share of every head")


def _hosts(store: Store) -> str:
    return _picture(host_figure(store), "Losses, times and gradients of the newest round's hosts, and the loss scale of mixed precision")


def _decisions(store: Store) -> str:
    picture = _picture(decision_figure(store), "What the policy did in the newest round by host epoch, and how sure it was")
    found = decisions(store)
    episode = [one for one in found if (one.env_id, one.episode_idx) == (found[0].env_id, found[0].episode_idx)][:MAX_DECISIONS]
    rows = [
        (
            one.action_name.lower(),
            one.action_slot or "–",
            ", ".join(f"{name.lower()} {probability:.2f}" for name, probability in one.alternatives.items()) or "–",
            "–" if one.inner_epoch is None else str(one.inner_epoch),
            f"{one.action_confidence:.2f}",
            _number(one.decision_entropy, "z.2f"),
            _number(one.value_estimate, "+.2f"),
            f"{one.total_reward:+.2f}",
        )
        for one in episode
    ]
    headings = ("done", "slot", "operations not taken", "host epoch", "confidence", "entropy", "value", "reward")
    note = "One episode of the newest round. Confidence is the probability of the action in all its parts, entropy that of the operation."
    return picture + (_table(headings, rows, texts=3) + _note(note) if rows else "")


def _growth(store: Store) -> str:
    headings = ("blueprint", "planted", "kept", "pruned", "kept share", "parameters", "improvement", "worth", "epochs")
    rows = [
        (
            one.blueprint_id,
            str(one.num_planted),
            str(one.num_kept),
            str(one.num_pruned),
            _number(one.kept_frac, ".2f"),
            _number(one.mean_params, ",.0f"),
            _number(one.mean_improvement, "+.1f"),
            _number(one.mean_contribution, "+.1f"),
            _number(one.mean_epochs, ".1f"),
        )
        for one in blueprint_scores(store)
    ]
    note = "Improvement is what was gained from germination to being kept, worth is what would be lost without it; both in points."
    return (
        _picture(timeline_figure(store), "Stage and alpha of every seed in the newest round")
        + _picture(fates_figure(store), "Seeds planted, kept and pruned by round")
        + (_table(headings, rows) + _note(note) if rows else "")
    )


def _rewards(store: Store) -> str:
    rows = [
        (one.split, one.policy or "–", one.context or "all", str(one.num_episodes), _number(one.pearson, "+.2f"), one.verdict)
        for one in calibrations(store)
    ]
    table = _table(("split", "policy", "context", "episodes", "correlation", "verdict"), rows, texts=3)
    note = "Correlation is Pearson's, between episode reward and final accuracy: whether what is rewarded is what is wanted."
    return _picture(reward_figure(store), "Mean reward of a step and its parts, by round") + (table + _note(note) if rows else "")


def _attribution(store: Store) -> str:
    return _picture(attribution_figure(store), "Shapley values by slot, and gains of sets of seeds")


def _anomalies(store: Store) -> str:
    counts = anomaly_counts(store)
    if not counts:
        return '<p class="none">No detector has fired.</p>'
    newest = [
        (f"{one.timestamp:%Y-%m-%d %H:%M:%S}", one.event_type.lower(), one.severity, _place(one), one.detail)
        for one in anomalies(store, limit=50)
    ]
    total = sum(counts.values())
    shown = "" if total <= len(newest) else _note(f"The newest {len(newest)} of {total} are shown.")
    listing = _table(("time (UTC)", "what", "severity", "where", "detail"), newest, texts=5)
    return _table(("what", "times"), [(name.lower(), str(num)) for name, num in counts.items()]) + listing + shown


def _place(one: Anomaly) -> str:
    """Training rounds by their number, else the group."""
    return one.group_id if one.round_idx is None else f"round {one.round_idx}"


def _infrastructure(store: Store) -> str:
    lives = [
        (
            one.source,
            _number(one.uptime_sec, ",.0f"),
            str(one.num_beats),
            _number(one.longest_silence_sec, ".0f"),
            "ended in order" if one.is_over else "no farewell",
            "–" if one.num_events_emitted is None else str(one.num_events_emitted),
            "–" if one.num_events_dropped is None else str(one.num_events_dropped),
            "–" if one.most_batches_waiting is None else str(one.most_batches_waiting),
            "–" if one.most_batches_on_disk is None else str(one.most_batches_on_disk),
        )
        for one in process_lives(store)
    ]
    headings = ("process", "lived (s)", "heartbeats", "longest silence (s)", "end", "events", "lost", "batches waiting", "on disk")
    figure = _picture(machine_figure(store), "Speed, load, memory, and where a host epoch's time goes")
    return figure + (_table(headings, lives) if lives else "") + _incidents(store)


def _incidents(store: Store) -> str:
    found = [(f"{one.noticed_at:%Y-%m-%d %H:%M:%S}", one.kind.replace("_", " "), one.detail) for one in incidents(store)]
    return _table(("noticed (UTC)", "telemetry file", "detail"), found, texts=3) if found else ""


def _settings(context: Context, versions: Mapping[str, str]) -> str:
    parts = [_table(("package", "version"), sorted(versions.items()), texts=2)] if versions else []
    if context.config:
        text = escape(json.dumps(context.config, indent=2, default=str))
        parts.append(f"<details><summary>all settings</summary><pre>{text}</pre></details>")
    return "".join(parts) or '<p class="none">Not recorded.</p>'


def _picture(figure: Any, text: str) -> str:
    return f'<img alt="{escape(text, quote=True)}" src="{as_data_uri(figure)}">\n'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose first `texts` columns are words."""

    def cells(values: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if i < texts else "" for i in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(headings, "th")}</tr>{lines}</table></div>\n'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
