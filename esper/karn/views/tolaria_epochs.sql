-- Every host epoch, as it happened: epochs of an episode that was played again after a fault appear twice.
CREATE OR REPLACE VIEW tolaria_epochs AS
SELECT * FROM tolaria_epoch_completed;
