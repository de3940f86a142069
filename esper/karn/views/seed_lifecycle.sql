-- Everything that happened to seeds, in one place.
CREATE OR REPLACE VIEW seed_lifecycle AS
SELECT * FROM seed_germinated
UNION ALL BY NAME SELECT * FROM seed_stage_changed
UNION ALL BY NAME SELECT * FROM seed_gate_evaluated
UNION ALL BY NAME SELECT * FROM seed_fossilized
UNION ALL BY NAME SELECT * FROM seed_pruned;
