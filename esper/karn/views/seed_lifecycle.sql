-- Everything that happened to seeds, in one place: planted, stage changed, gate asked, kept, removed.
--   env_id, episode_idx, slot_id, seed_id, blueprint_id   which seed
--   from_stage, to_stage, reason, initiator            of a change of stage; initiator is policy, auto or governor
--   gate, passed, score (0…1), checks_…                of a gate
--   alpha 0…1; params, params_added in parameters; epochs_in_stage, epochs_total in host epochs
--   accuracy_delta, improvement, counterfactual        points of accuracy; NULL is unmeasured
CREATE OR REPLACE VIEW seed_lifecycle AS
SELECT * FROM seed_germinated
UNION ALL BY NAME SELECT * FROM seed_stage_changed
UNION ALL BY NAME SELECT * FROM seed_gate_evaluated
UNION ALL BY NAME SELECT * FROM seed_fossilized
UNION ALL BY NAME SELECT * FROM seed_pruned;
