-- One branch per event table; `{table}` is filled in by the catalogue.
SELECT event_type, event_id, timestamp, seed_id, slot_id, epoch, group_id, message, severity,
       producer, incarnation, seq, to_json(t) AS data
FROM "{table}" AS t
