-- One row per round; where a round was played again after a fault, the last life counts.
CREATE OR REPLACE VIEW tolaria_batches AS
SELECT * FROM tolaria_batch_completed
QUALIFY incarnation = max(incarnation) OVER (PARTITION BY group_id, batch_idx);
