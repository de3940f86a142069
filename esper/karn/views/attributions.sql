-- Who earned an episode's accuracy: one row per seed at the episode's end.
--   env_id, episode_idx, slot_id                       which seed
--   shapley_value                                      points; over an episode they add up to what all seeds gain together
--   standard_error                                     points; 0 where exact, NULL where one sample leaves it unmeasured
CREATE OR REPLACE VIEW attributions AS
WITH entries AS (
    SELECT timestamp, group_id, producer, incarnation, seq, event_id, env_id, episode_idx, shapley_standard_errors,
           unnest(map_entries(shapley_values)) AS entry
    FROM analytics_snapshot
    WHERE kind = 'shapley_computed' AND shapley_values IS NOT NULL
)
SELECT timestamp, group_id, producer, incarnation, seq, event_id, env_id, episode_idx, entry.key AS slot_id,
       entry.value AS shapley_value, shapley_standard_errors[entry.key] AS standard_error
FROM entries;
