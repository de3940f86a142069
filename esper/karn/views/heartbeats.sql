-- Signs of life of every process.
--   source                                             process; uptime_sec in s
--   training_thread_alive                              false in the last one of a process that ended in order
--   silence_sec                                        s since the one before of the same process and life; NULL for the first
--   env_steps                                          taken in the run so far, where the process knows
--   num_events_emitted, num_events_dropped             events; num_batches_waiting are not acknowledged yet, num_batches_on_disk of them in files
CREATE OR REPLACE VIEW heartbeats AS
SELECT *, epoch(timestamp - lag(timestamp) OVER (PARTITION BY source, incarnation ORDER BY timestamp)) AS silence_sec
FROM heartbeat;
