-- Every step's reward with its parts; snapshots bring theirs as a map.
--   all fields of RewardComputedPayload
--   total_reward                                       sum of the parts, reward units
--   utility_change, bounded_attribution, compute_rent, occupancy_rent, fossilized_rent, alpha_shock, ratio_penalty,
--   stage_bonus, fossilize_terminal_bonus, blending_warning, holding_warning, pbrs_bonus, synergy_bonus, action_shaping,
--   terminal_bonus, governor_penalty                   parts, reward units; 0 where one does not apply
--   base_acc_delta, seed_contribution, progress_since_germination    points; val_acc, host_accuracy in percent
--   growth_ratio                                       added over host parameters; reward_components map part → reward units
CREATE OR REPLACE VIEW rewards AS
SELECT * FROM reward_computed
UNION ALL BY NAME
SELECT event_type, event_id, timestamp, group_id, producer, incarnation, seq, env_id, episode_idx, action_name,
       action_confidence, value_estimate, total_reward, reward_components
FROM analytics_snapshot
WHERE kind = 'last_action';
