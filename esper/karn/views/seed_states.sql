-- How every seed stood at the end of every host epoch.
--   env_id, episode_idx, inner_epoch (from 1)          which epoch
--   slot_id, seed_id, blueprint_id, stage              which seed, and its stage
--   alpha                                              0…1; age_epochs and epochs_in_stage in host epochs
--   num_parameters                                     parameters
--   gradient_norm                                      l2; gradient_health 0…1
--   accuracy_delta, contribution, solo_contribution    points; NULL is unmeasured
CREATE OR REPLACE VIEW seed_states AS
WITH entries AS (
    SELECT timestamp, group_id, producer, incarnation, seq, env_id, episode_idx, inner_epoch, unnest(map_entries(seeds)) AS entry
    FROM tolaria_epochs
    WHERE seeds IS NOT NULL
)
SELECT timestamp, group_id, producer, incarnation, seq, env_id, episode_idx, inner_epoch, entry.key AS slot_id, unnest(entry.value)
FROM entries;
