-- Whether what is rewarded is what is wanted: agreement of episode reward and final accuracy over episodes.
--   split, policy, reward_mode, context                which episodes; a NULL context is all of them together
--   num_episodes                                       episodes
--   pearson                                            −1…1; NULL for fewer than three episodes, or where one side does not vary
--   verdict                                            well (from 0.7), moderate (0.3), weak (0), inverted (below), or unknown
--   mean_reward                                        reward units; mean_accuracy in percent
CREATE OR REPLACE VIEW reward_calibration AS
WITH agreement AS (
    SELECT split, policy, reward_mode, context, count(*) AS num_episodes,
           CASE WHEN count(*) > 2 AND stddev_pop(episode_reward) > 0 AND stddev_pop(final_accuracy) > 0
                THEN corr(episode_reward, final_accuracy) END AS pearson,
           avg(episode_reward) AS mean_reward, avg(final_accuracy) AS mean_accuracy
    FROM episode_outcomes
    GROUP BY GROUPING SETS ((split, policy, reward_mode, context), (split, policy, reward_mode))
)
SELECT split, policy, reward_mode, context, num_episodes, pearson,
       CASE WHEN pearson IS NULL THEN 'unknown' WHEN pearson >= 0.7 THEN 'well' WHEN pearson >= 0.3 THEN 'moderate'
            WHEN pearson >= 0 THEN 'weak' ELSE 'inverted' END AS verdict,
       mean_reward, mean_accuracy
FROM agreement;
