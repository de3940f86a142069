-- Older names of the three views.
CREATE OR REPLACE VIEW epochs AS SELECT * FROM tolaria_epochs;
CREATE OR REPLACE VIEW ppo_updates AS SELECT * FROM tamiyo_updates;
CREATE OR REPLACE VIEW batch_epochs AS SELECT * FROM tolaria_batches;
