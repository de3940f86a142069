-- What accuracy would be with other sets of seeds: one row for each set that was tried.
--   env_id, episode_idx, inner_epoch                   which host, after which host epoch
--   strategy                                           ablation, factorial, shapley or unavailable
--   slot_ids                                           the host's slots
--   slots_on                                           the set; num_on is its size
--   accuracy                                           percent, with exactly these seeds on
--   gain                                               points over no seed at all; NULL where that was not tried
--   compute_time_ms                                    ms, of all sets together
CREATE OR REPLACE VIEW counterfactuals AS
WITH configurations AS (
    SELECT timestamp, group_id, producer, incarnation, seq, event_id, env_id, episode_idx, inner_epoch, strategy, slot_ids,
           compute_time_ms, unnest(configs) AS config,
           list_filter(configs, lambda c: len(c.slots_on) = 0)[1].accuracy AS bare_accuracy
    FROM counterfactual_matrix_computed
)
SELECT timestamp, group_id, producer, incarnation, seq, event_id, env_id, episode_idx, inner_epoch, strategy, slot_ids,
       config.slots_on AS slots_on, len(config.slots_on) AS num_on, config.accuracy AS accuracy,
       config.accuracy - bare_accuracy AS gain, compute_time_ms
FROM configurations;
