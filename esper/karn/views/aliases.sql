-- Older names of three views: epochs, ppo_updates and batch_epochs have the columns of those they stand for.
CREATE OR REPLACE VIEW epochs AS SELECT * FROM tolaria_epochs;
CREATE OR REPLACE VIEW ppo_updates AS SELECT * FROM tamiyo_updates;
CREATE OR REPLACE VIEW batch_epochs AS SELECT * FROM tolaria_batches;
