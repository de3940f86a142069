-- What the policy chose and how sure it was; `event_type` tells rewarded steps from snapshots of the last action.
--   env_id, episode_idx, inner_epoch                   which step; inner_epoch in host epochs, from 1
--   action_name, action_slot                           operation, and where
--   action_confidence                                  joint probability, 0…1; decision_entropy in nats
--   value_estimate, total_reward                       reward units; the estimate as the learner scales them
--   alternatives                                       list of (action_name, probability 0…1) that were possible and not taken
CREATE OR REPLACE VIEW decisions AS
SELECT event_type, timestamp, group_id, producer, env_id, episode_idx, inner_epoch, action_name, action_slot,
       action_confidence, value_estimate, decision_entropy, total_reward, alternatives
FROM reward_computed
UNION ALL BY NAME
SELECT event_type, timestamp, group_id, producer, env_id, episode_idx, action_name, action_confidence, value_estimate, total_reward
FROM analytics_snapshot
WHERE kind = 'last_action';
