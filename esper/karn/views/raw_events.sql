-- Every event of every type, whatever its payload. With telemetry.legacy_events renamed ones stand here under both names, with the same
-- event_id: count(DISTINCT event_id) counts events. All other views hold each once.
--   event_type    name in capitals                     event_id  producer/life/batch/place, unless it came with another
--   timestamp     UTC                                  group_id  round or evaluation, e.g. train/learned/7
--   seed_id, slot_id, epoch (host epochs)              NULL where they do not apply
--   message, severity                                  debug, info, warning, error or critical
--   producer, incarnation, seq                         process, its life, and the batch that the row came in
--   data          the whole row as JSON, the payload's fields with it; of numbers told in single precision, every digit
-- One branch per event table; `{table}` is filled in by the catalogue.
SELECT event_type, event_id, timestamp, seed_id, slot_id, epoch, group_id, message, severity,
       producer, incarnation, seq, to_json(t) AS data
FROM "{table}" AS t
