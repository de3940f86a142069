-- Every step's reward with its parts; snapshots bring theirs as a map.
CREATE OR REPLACE VIEW rewards AS
SELECT * FROM reward_computed
UNION ALL BY NAME
SELECT event_type, event_id, timestamp, group_id, producer, incarnation, seq, env_id, episode_idx, action_name,
       action_confidence, value_estimate, total_reward, reward_components
FROM analytics_snapshot
WHERE kind = 'last_action';
