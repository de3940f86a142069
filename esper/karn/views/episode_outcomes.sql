-- One row per episode; where an episode was played again after a fault, the last life counts.
CREATE OR REPLACE VIEW episode_outcomes AS
SELECT * FROM episode_outcome
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, policy, split, context, env_id, episode_idx);
