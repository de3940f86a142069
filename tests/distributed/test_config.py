from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.config import read_run_config, write_run_config
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_written_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = read_run_config(None, ["task.preset=smoke", "seed=5", "telemetry.muted=[HEARTBEAT]", "growth.slots=[r0c0]"])
    write_run_config(config, tmp_path / "config.yaml")
    assert read_run_config(tmp_path / "config.yaml") == config


def test_the_command_line_beats_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task: {preset: smoke}\ngrowth: {max_fossils: 1, min_training_epochs: 3}\n")
    growth = read_run_config(file, ["growth.min_training_epochs=1"]).growth
    assert (growth.max_fossils, growth.min_training_epochs) == (1, 1)
    assert growth.auto_advance


@pytest.mark.parametrize("text", ["off", "'off'", '"off"'])
def test_off_may_be_written_without_quotes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"telemetry: {{console: {text}, wandb: {text}}}\n")
    telemetry = read_run_config(file).telemetry
    assert (telemetry.console, telemetry.wandb) == ("off", "off")
    assert read_run_config(None, [f"telemetry.console={text}"]).telemetry.console == "off"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- a\n- b\n", "mapping"), (b"a: [1", "not YAML"), (b"\xff\xfe\xfa", "not text"), (b"telemetry: 3", "mapping")],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_run_config(file)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.touch()
    assert read_run_config(file) == read_run_config(None)


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_gpu_shares_must_pack(share: float) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.env_gpus"):
        read_run_config(None, [f"cluster.env_gpus={share}"])
    assert read_run_config(None, ["cluster.env_gpus=0.25"]).cluster.env_gpus == 0.25
