-- What became of every blueprint's seeds, in all episodes that were recorded; of an episode played again after a fault, the last life counts.
--   blueprint_id                                       which
--   num_planted, num_kept, num_pruned                  seeds; the rest was still growing when its episode ended
--   kept_frac                                          kept over planted, 0…1
--   mean_params                                        parameters, of those planted
--   mean_improvement                                   points gained since germination, of the kept
--   mean_contribution                                  leave-one-out worth of the kept, points; NULL is unmeasured
--   mean_epochs                                        host epochs from germination to being kept
CREATE OR REPLACE VIEW blueprint_scoreboard AS
WITH planted AS (
    SELECT blueprint_id, count(*) AS num_planted, avg(params) AS mean_params
    FROM (SELECT * FROM seed_germinated QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, env_id, episode_idx))
    GROUP BY ALL
),
kept AS (
    SELECT blueprint_id, count(*) AS num_kept, avg(improvement) AS mean_improvement, avg(counterfactual) AS mean_contribution,
           avg(epochs_total) AS mean_epochs
    FROM (SELECT * FROM seed_fossilized QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, env_id, episode_idx))
    GROUP BY ALL
),
pruned AS (
    SELECT blueprint_id, count(*) AS num_pruned
    FROM (SELECT * FROM seed_pruned QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, env_id, episode_idx))
    WHERE blueprint_id IS NOT NULL
    GROUP BY ALL
)
SELECT blueprint_id, coalesce(num_planted, 0) AS num_planted, coalesce(num_kept, 0) AS num_kept, coalesce(num_pruned, 0) AS num_pruned,
       num_kept / num_planted AS kept_frac, mean_params, mean_improvement, mean_contribution, mean_epochs
FROM planted FULL JOIN kept USING (blueprint_id) FULL JOIN pruned USING (blueprint_id);
