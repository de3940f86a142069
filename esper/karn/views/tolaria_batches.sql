-- One row per round; where a round was played again after a fault, the last life counts.
--   all fields of TolariaBatchPayload
--   batch_idx                                          number of the round
--   episodes_completed, total_episodes                 episodes of the run so far, and planned
--   avg_accuracy, rolling_accuracy, env_accuracies     percent; avg_utility in points; avg_reward in reward units
--   hypervolume                                        percent × parameter ratio; num_pareto in episodes
--   env_steps                                          taken in the run so far; env_steps_per_sec 1/s; wall_sec s
CREATE OR REPLACE VIEW tolaria_batches AS
SELECT * FROM tolaria_batch_completed
WHERE message <> '{twin}'
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, batch_idx);
