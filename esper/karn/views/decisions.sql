-- What the policy chose and how sure it was; `event_type` tells rewarded steps from snapshots of the last action.
CREATE OR REPLACE VIEW decisions AS
SELECT event_type, timestamp, group_id, producer, env_id, episode_idx, inner_epoch, action_name, action_slot,
       action_confidence, value_estimate, decision_entropy, total_reward, alternatives
FROM reward_computed
UNION ALL BY NAME
SELECT event_type, timestamp, group_id, producer, env_id, episode_idx, action_name, action_confidence, value_estimate, total_reward
FROM analytics_snapshot
WHERE kind = 'last_action';
