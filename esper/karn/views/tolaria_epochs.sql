-- Every host epoch, as it happened: epochs of an episode that was played again after a fault appear twice.
--   all fields of TolariaEpochPayload
--   env_id, episode_idx, inner_epoch (from 1)          which epoch
--   val_accuracy, train_accuracy, committed_accuracy   percent
--   val_loss, train_loss (= host_train_loss)           nats
--   host_grad_norm_pre_clip, grad_norm_per_layer       l2 norms; grad_zero_fraction 0…1; grad_norm_ratio largest over smallest
--   host_params, seed_params, fossil_params            parameters
--   …_time_ms                                          ms, sums over the epoch; steps only in sampled epochs, else NULL
--   seeds                                              map slot → how its seed stands
CREATE OR REPLACE VIEW tolaria_epochs AS
SELECT *, train_loss AS host_train_loss FROM tolaria_epoch_completed
WHERE message <> '{twin}';
