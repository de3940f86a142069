-- One row per pass of PPO; where a round was played again after a fault, the last life counts.
CREATE OR REPLACE VIEW tamiyo_updates AS
SELECT * FROM tamiyo_policy_update
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, batch, ppo_update_idx);
