-- Whatever a detector found or the run lost, with one line of explanation.
--   event_type, timestamp (UTC), severity, group_id, producer
--   batch                                              number of the round, where the finding is about one
--   env_id                                             where it is about one
--   detail                                             in words
CREATE OR REPLACE VIEW anomalies AS
WITH learning AS (
    SELECT * FROM gradient_anomaly
    UNION ALL BY NAME SELECT * FROM ratio_explosion_detected
    UNION ALL BY NAME SELECT * FROM ratio_collapse_detected
    UNION ALL BY NAME SELECT * FROM value_collapse_detected
    UNION ALL BY NAME SELECT * FROM gradient_pathology_detected
    UNION ALL BY NAME SELECT * FROM numerical_instability_detected
),
trends AS (
    SELECT *, batch_idx AS batch, rolling_avg_accuracy AS accuracy, rolling_delta AS delta FROM degradation_detected
    UNION ALL BY NAME SELECT *, batch_idx AS batch, rolling_avg_accuracy AS accuracy, rolling_delta AS delta FROM plateau_detected
)
SELECT event_type, timestamp, severity, group_id, producer, batch, NULL::BIGINT AS env_id, detail FROM learning
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer, batch, reason AS detail FROM policy_update_rejected
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer, env_id, concat_ws(': ', panic_reason, reason) AS detail
FROM tolaria_rollback WHERE message <> '{twin}'
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer, batch,
       format('mean accuracy of the latest rounds {:.1f} %, {:+.1f} points from those before', accuracy, delta) AS detail
FROM trends
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer,
       format('{} {} (fault {} of it), remedy: {}', part, fault, num_faults, remedy) AS detail
FROM part_lost
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer, env_id,
       format('accuracy {:.1f} % fell {:.1f} % below its rolling mean', current_acc, drop_percent) AS detail
FROM performance_degradation
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer, env_id, pattern AS detail FROM reward_hacking_suspected
UNION ALL BY NAME
SELECT event_type, timestamp, severity, group_id, producer,
       format('{:.1f} of {:.1f} GB in use', gpu_allocated_gb, gpu_total_gb) AS detail
FROM memory_warning;
