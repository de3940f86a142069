-- One row per episode; where an episode was played again after a fault, the last life counts.
--   all fields of EpisodeOutcomePayload
--   split, policy, context, env_id, episode_idx        which episode
--   final_accuracy, test_accuracy                      percent, of what was kept; utility in points
--   param_ratio                                        (host + fossils) / host; 1 is no growth
--   stability_score                                    0…1; episode_reward in reward units; episode_length in host epochs
--   num_fossilized, num_contributing_fossilized, germinate_count, prune_count, fossilize_count    seeds
--   kept                                               list of slot:blueprint; outcome_type completed or rolled_back
CREATE OR REPLACE VIEW episode_outcomes AS
SELECT * FROM episode_outcome
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, policy, split, context, env_id, episode_idx);
