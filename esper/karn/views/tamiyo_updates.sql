-- One row per pass of PPO; where a round was played again after a fault, the last life counts.
--   all fields of TamiyoPolicyUpdatePayload
--   batch                                              number of the round; ppo_update_idx 1, 2, 3 … within it
--   policy_loss, value_loss, entropy_loss              as they enter the objective; entropy in nats
--   grad_norm, pre_clip_grad_norm                      l2 norm after and before clipping
--   kl_divergence, kl_reverse, approx_kl_max           nats; clip_fraction and its two sides 0…1
--   explained_variance                                 1 is perfect; value_target_correlation −1…1; return_… in reward units
--   head_<name>_entropy (0…1), _kl (nats), _clip_fraction (0…1), _grad_norm, _active_ratio (0…1), _ratio_max
--   env_steps                                          taken in the run so far; update_time_ms in ms
CREATE OR REPLACE VIEW tamiyo_updates AS
SELECT * FROM tamiyo_policy_update
WHERE message <> '{twin}'
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, batch, ppo_update_idx);
