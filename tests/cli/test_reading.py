"""`esper query`, `esper report` and `esper wandb upload` on a run's folder."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import wandb

from esper.cli.main import main
from esper.karn.live import LiveAnswers
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat_batch, record_run, whole_run

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("reading"), [whole_run(3, n_envs=2)])


def test_a_query_is_printed_in_three_forms(recorded: Path, capsys: Captured) -> None:
    sql = "SELECT batch_idx, env_steps FROM tolaria_batches ORDER BY batch_idx"
    assert main(["query", str(recorded), sql, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"batch_idx": i, "env_steps": 4 * (i + 1)} for i in range(3)]
    assert main(["query", str(recorded), sql, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["batch_idx,env_steps", "0,4", "1,8", "2,12"]
    assert main(["query", str(recorded), sql, "--max-rows", "1"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "--max-rows" in printed.err


def test_a_statement_may_stand_behind_options_and_two_are_refused(recorded: Path, capsys: Captured) -> None:
    assert main(["query", str(recorded), "--format", "csv", "SELECT 1 AS one"]) == 0
    assert capsys.readouterr().out == "one\n1\n"
    with pytest.raises(SystemExit):
        main(["query", str(recorded), "SELECT 1", "--format", "csv", "SELECT 2"])
    assert "unrecognized arguments: SELECT 2" in capsys.readouterr().err


def test_a_living_run_answers_itself_then_its_snapshot_then_its_file(tmp_path: Path, capsys: Captured) -> None:
    record_run(tmp_path, [whole_run(1, n_envs=2)])
    question = ["query", str(tmp_path), "SELECT count(*) AS n FROM heartbeats", "--format", "csv"]

    def ask() -> tuple[str, str]:
        assert main(question) == 0
        printed = capsys.readouterr()
        return printed.out.split()[-1], printed.err

    count, told = ask()
    assert count == "0"
    assert "telemetry.duckdb (file)" in told
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    sink.publish_snapshot(tmp_path / "telemetry.snapshot.duckdb")
    answers = LiveAnswers(tmp_path, sink.open_reader)
    sink.write([heartbeat_batch(1)])
    count, told = ask()
    assert count == "1"
    assert "alive" in told
    answers.close()
    count, told = ask()
    assert count == "0"
    assert "snapshot" in told
    sink.close()
    assert ask()[0] == "1"


def test_without_a_statement_the_views_are_named(recorded: Path, capsys: Captured) -> None:
    assert main(["query", str(recorded)]) == 0
    views = capsys.readouterr().out.split()
    assert {"raw_events", "runs", "counterfactuals", "reward_calibration", "blueprint_scoreboard"} <= set(views)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["SELECT * FROM read_csv('/etc/passwd')"], "nothing else"),
        (["SELECT nope FROM runs"], "nope"),
        (["DROP TABLE heartbeat"], "DROP"),
        (["SELECT 1", "--max-rows", "0"], "--max-rows 0"),
        (["SELECT 1", "--timeout", "-1"], "--timeout -1"),
        (["SELECT 1", "--timeout", "inf"], "--timeout inf"),
        (["SELECT 1", "--timeout", "nan"], "--timeout nan"),
    ],
)
def test_a_wrong_query_is_refused(recorded: Path, capsys: Captured, arguments: list[str], complaint: str) -> None:
    assert main(["query", str(recorded), *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_folder_without_telemetry_is_named(tmp_path: Path, capsys: Captured) -> None:
    for command in (["query", str(tmp_path), "SELECT 1"], ["report", str(tmp_path)]):
        assert main(command) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_a_corrupt_file_is_named(recorded: Path, tmp_path: Path, capsys: Captured) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    file = run / "telemetry.duckdb"
    file.write_bytes(file.read_bytes()[:9000])
    assert main(["query", str(run), "SELECT 1"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_report_lies_in_the_run_or_where_it_is_wanted(recorded: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(recorded), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert "Run of image-mix" in out.read_text()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"summaries": [{"policy": "a"}]}', '{"summaries": [{"policy": "a", "mean": 1}], "outcomes": {"a": []}}', "\\xff"],
)
def test_a_damaged_comparison_is_named(recorded: Path, tmp_path: Path, capsys: Captured, content: str) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    (run / "comparison.json").write_text(content)
    assert main(["report", str(run)]) == 2
    assert f"{run / 'comparison.json'} is no comparison of policies" in capsys.readouterr().err


def test_damaged_settings_are_named_before_an_upload(recorded: Path, tmp_path: Path, capsys: Captured) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    (run / "config.yaml").write_text("telemetry: 5\n")
    assert main(["wandb", "upload", str(run), "--mode", "offline"]) == 2
    assert f"{run / 'config.yaml'}: telemetry: expected a mapping" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["query", "report", "wandb"])
def test_a_telemetry_file_stands_for_its_run(
    recorded: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = shutil.copytree(recorded, tmp_path / "run")
    file = str(run / "telemetry.duckdb")
    rest = {"query": [file, "SELECT task FROM runs"], "report": [file], "wandb": ["upload", file, "--mode", "offline"]}[command]
    assert main([command, *rest]) == 0
    wandb.teardown()
    expected = {"query": "image-mix", "report": str(run / "report.html"), "wandb": str(run / "wandb-upload")}[command]
    assert expected in capsys.readouterr().out


def test_a_stored_run_becomes_a_run_in_weights_and_biases(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = shutil.copytree(recorded, tmp_path / "run")
    assert main(["wandb", "upload", str(run), "--mode", "offline", "--name", "again"]) == 0
    wandb.teardown()  # the library's own process writes on after a run has finished; this waits for it
    (logged,) = (run / "wandb-upload").rglob("*.wandb")
    content = logged.read_bytes()
    for key in (b"tamiyo/pre_clip_grad_norm", b"tolaria/val_accuracy", b"simic/stability_score", b"charts/Value quality", b"again"):
        assert key in content
    assert b"incarnation" not in content
