-- How the machine fared, as each process saw it every few rounds; NULL is unmeasured, as CUDA figures are without a GPU.
--   all fields of InfrastructureSnapshotPayload
--   source                                             process
--   cuda_memory_…_gb, memory_allocated_delta_gb, host_memory_used_gb    GB (10⁹ bytes)
--   cuda_memory_fragmentation                          0…1
--   gpu_utilization_pct, gpu_memory_bandwidth_pct, cpu_utilization_pct    percent
--   compile_…, dynamo_guard_failures, cuda_oom_events  counts since the process began
--   avg_…_time_ms                                      ms per sampled host epoch, mean over batch_window rounds
CREATE OR REPLACE VIEW infrastructure AS
SELECT * FROM infrastructure_snapshot;
