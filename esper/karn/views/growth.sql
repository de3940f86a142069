-- What grew where, over finished episodes.
--   split, policy, context, slot_id, blueprint_id      what and where
--   num_planted, num_kept                              seeds
--   mean_contribution                                  leave-one-out worth of the kept ones, points; NULL is unmeasured
CREATE OR REPLACE VIEW growth AS
WITH planted AS (
    SELECT group_id, env_id, episode_idx, slot_id, blueprint_id, count(*) AS num_planted
    FROM (
        SELECT * FROM seed_germinated
        QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, env_id, episode_idx)
    )
    GROUP BY ALL
),
kept AS (
    SELECT group_id, env_id, episode_idx, slot_id, blueprint_id, count(*) AS num_kept,
           sum(counterfactual) AS sum_contribution, count(counterfactual) AS num_measured
    FROM (
        SELECT * FROM seed_fossilized
        QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, env_id, episode_idx)
    )
    GROUP BY ALL
)
SELECT o.split, o.policy, o.context, p.slot_id, p.blueprint_id,
       sum(p.num_planted)::BIGINT AS num_planted,
       coalesce(sum(k.num_kept), 0)::BIGINT AS num_kept,
       sum(k.sum_contribution) / nullif(sum(k.num_measured), 0) AS mean_contribution
FROM planted AS p
JOIN (SELECT group_id, env_id, episode_idx, split, policy, context FROM episode_outcomes) AS o USING (group_id, env_id, episode_idx)
LEFT JOIN kept AS k USING (group_id, env_id, episode_idx, slot_id, blueprint_id)
GROUP BY ALL;
