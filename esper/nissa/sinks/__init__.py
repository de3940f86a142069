"""Where telemetry ends: `duckdb` stores it, `console` and `wandb` show it, `fan_out` joins them, `memory` is for tests.

Import the module you need; none is loaded by this one.
"""
