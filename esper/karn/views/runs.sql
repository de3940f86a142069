-- Every start of a run, with the end that followed it; the end is NULL while a run is going on or after a crash.
--   all fields of TrainingStartedPayload: task, seed, n_envs, n_episodes, lr, …; host_params and param_budget in parameters
--   finished_at            UTC                         episodes_played, env_steps   counts over the run
--   wall_sec               s                           env_steps_per_sec            1/s
--   stop_reason            completed, interrupted, failed or stopped (by a sweep)
--   checkpoint_path        newest checkpoint           num_events_dropped           events lost by telemetry
CREATE OR REPLACE VIEW runs AS
SELECT s.*,
       f.timestamp AS finished_at, f.episodes AS episodes_played, f.env_steps, f.wall_sec, f.env_steps_per_sec,
       f.stop_reason, f.checkpoint_path, f.num_events_dropped
FROM training_started AS s
ASOF LEFT JOIN run_finished AS f ON s.group_id = f.group_id AND s.timestamp <= f.timestamp;
