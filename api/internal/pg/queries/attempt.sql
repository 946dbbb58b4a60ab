-- Every write of a worker names what it believes to hold: attempt, generation,
-- number, epoch, worker and incarnation. Each UPDATE here compares all of it;
-- a test reads the lines "-- fence:" and fails where one does not.

-- LockRunsOf locks the runs of fenced attempts, always before the attempts.
-- name: LockRunsOf :many
SELECT r.id, r.tenant_id, r.status, r.pin, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.cancel_at, r.started_at, r.retry_budget, r.retries, r.layers
FROM nofx.run r
WHERE r.id IN (SELECT a.run_id FROM nofx.attempt a WHERE a.id = ANY (@ids::text[]))
ORDER BY r.id
FOR NO KEY UPDATE;

-- LockAttempts locks those of a worker's attempts whose fence is right,
-- whatever has become of them. LIMIT 1 and || '' make it find each by its id:
-- with a plan from a time when the tables were short, it would go through all
-- that the worker ever had.
-- fence: attempt
-- name: LockAttempts :many
SELECT a.*, s.*
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
             unnest(@epochs::bigint[]) AS epoch ORDER BY 1) f
CROSS JOIN LATERAL (
  SELECT a.id, a.tenant_id, a.run_id, a.step_id, a.generation, a.number, a.epoch, a.status, a.journal_n, a.output_bytes, a.blob_bytes, a.started_at, a.breaker_generation, a.probe, a.region
  FROM nofx.attempt a
  WHERE a.id = f.id AND a.generation = f.generation AND a.number = f.number AND a.epoch = f.epoch AND a.worker_id || '' = @worker_id
    AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = a.worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id)
  LIMIT 1
  FOR NO KEY UPDATE
) a
CROSS JOIN LATERAL (
  SELECT s.name, s.tries, s.losses, s.backoff_ms, s.retry, s.network, s.idempotent, s.dependants, s.shares, s.reads, s.shown, s.driver, s.lane, s.drivers, s.place, s.concurrency_key, s.region AS placed,
         (CASE WHEN cardinality(s.drivers) > 1 THEN EXISTS (SELECT 1 FROM nofx.attempt e
            WHERE e.step_id = s.id AND e.generation = s.generation AND e.started_at IS NOT NULL) ELSE false END)::bool AS touched,
         (CASE WHEN cardinality(s.drivers) > 1 AND s.shares THEN EXISTS (SELECT 1 FROM nofx.worker p, jsonb_array_elements(p.drivers::jsonb) d
            WHERE p.id = @worker_id AND d ->> 'name' = s.drivers[s.place + 1] AND (d ->> 'healthy')::bool
              AND (cardinality(s.regions) = 0 OR coalesce(NULLIF(d ->> 'region', ''), p.region) = ANY (s.regions))) ELSE true END)::bool AS next_served
  FROM nofx.step s WHERE s.id = a.step_id LIMIT 1
) s;

-- AdvanceAttempts stores what a journal batch says of each attempt. || '' is as
-- above: it would otherwise go through all that the worker runs for each.
-- fence: attempt
-- name: AdvanceAttempts :execrows
UPDATE nofx.attempt a
SET journal_n = f.to_n, output_bytes = f.output_bytes, blob_bytes = f.blob_bytes,
    started_at = coalesce(a.started_at, CASE WHEN f.started THEN now() END),
    driver_version = CASE WHEN f.started THEN f.driver_version ELSE a.driver_version END,
    sandbox_id = CASE WHEN f.started THEN f.sandbox_id ELSE a.sandbox_id END,
    usage = coalesce(NULLIF(f.usage, '')::json, a.usage),
    status = CASE WHEN f.verdict <> '' THEN 'ended' ELSE a.status END,
    ended_at = CASE WHEN f.verdict <> '' THEN now() END,
    verdict = NULLIF(f.verdict, '')::json
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
             unnest(@epochs::bigint[]) AS epoch, unnest(@from_ns::bigint[]) AS from_n, unnest(@to_ns::bigint[]) AS to_n,
             unnest(@output_bytes::bigint[]) AS output_bytes, unnest(@blob_bytes::bigint[]) AS blob_bytes,
             unnest(@started::bool[]) AS started, unnest(@driver_versions::text[]) AS driver_version,
             unnest(@sandbox_ids::text[]) AS sandbox_id, unnest(@usages::text[]) AS usage,
             unnest(@verdicts::text[]) AS verdict) f
WHERE a.id = f.id AND a.generation = f.generation AND a.number = f.number AND a.epoch = f.epoch
  AND a.worker_id || '' = @worker_id AND a.status || '' = 'running' AND a.journal_n = f.from_n
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = @worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id);

-- ReleaseAttempts takes back leases that were never started.
-- fence: attempt
-- name: ReleaseAttempts :many
UPDATE nofx.attempt a SET status = 'released', ended_at = now()
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
             unnest(@epochs::bigint[]) AS epoch) f
WHERE a.id = f.id AND a.generation = f.generation AND a.number = f.number AND a.epoch = f.epoch
  AND a.worker_id || '' = @worker_id AND a.status || '' = 'running' AND a.started_at IS NULL
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = a.worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id)
RETURNING a.id;

-- HoldsAttempt tells whether the fence is right and the attempt still runs. A
-- worker that does not say its id and incarnation is known by its key.
-- fence: attempt
-- name: HoldsAttempt :one
SELECT a.tenant_id FROM nofx.attempt a
WHERE a.id = @id AND a.generation = @generation AND a.number = @number AND a.epoch = @epoch
  AND (@worker_id::text = '' OR a.worker_id = @worker_id) AND a.status = 'running'
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = a.worker_id AND w.key_id = @key_id
                AND (@incarnation::text = '' OR w.incarnation = @incarnation));

-- name: InsertOutput :exec
INSERT INTO nofx.output_index (tenant_id, attempt_id, start, length, frames, blob_start, blob_length)
SELECT o.tenant_id, o.attempt_id, o.start, o.length, CASE WHEN o.blob_length = 0 THEN o.frames END,
       CASE WHEN o.blob_length > 0 THEN o.blob_start END, NULLIF(o.blob_length, 0)
FROM (SELECT unnest(@tenant_ids::text[]) AS tenant_id, unnest(@attempt_ids::text[]) AS attempt_id, unnest(@starts::bigint[]) AS start,
             unnest(@lengths::bigint[]) AS length, unnest(@frames::bytea[]) AS frames, unnest(@blob_starts::bigint[]) AS blob_start,
             unnest(@blob_lengths::bigint[]) AS blob_length) o;

-- name: InsertArtifacts :exec
INSERT INTO nofx.artifact (tenant_id, run_id, step_id, attempt_id, name, sha256, size)
SELECT unnest(@tenant_ids::text[]), unnest(@run_ids::text[]), unnest(@step_ids::text[]), unnest(@attempt_ids::text[]),
       unnest(@names::text[]), unnest(@sha256s::text[]), unnest(@sizes::bigint[]);

-- TenantUsage adds up what the attempts used that ended in a span of time, each
-- on the driver that it was on. Of those that are not kept any more the sums of
-- the days (UTC) count that begin in it.
-- name: TenantUsage :many
SELECT u.tool::text AS tool, u.driver::text AS driver, sum(u.attempts)::bigint AS attempts, sum(u.lost)::bigint AS lost,
       coalesce(sum(u.wall_ms), 0)::bigint AS wall_ms, coalesce(sum(u.cpu_usec), 0)::bigint AS cpu_usec,
       coalesce(max(u.memory_peak_bytes), 0)::bigint AS memory_peak_bytes,
       coalesce(sum(u.io_read_bytes), 0)::bigint AS io_read_bytes, coalesce(sum(u.io_write_bytes), 0)::bigint AS io_write_bytes,
       coalesce(sum(u.net_rx_bytes), 0)::bigint AS net_rx_bytes, coalesce(sum(u.net_tx_bytes), 0)::bigint AS net_tx_bytes,
       coalesce(sum(u.output_bytes), 0)::bigint AS output_bytes
FROM (
  SELECT s.tool, coalesce(NULLIF(a.driver, ''), s.driver) AS driver, 1 AS attempts, (a.status = 'lost')::int AS lost,
         (a.verdict -> 'usage' ->> 'wall_ms')::bigint AS wall_ms, (a.verdict -> 'usage' ->> 'cpu_usec')::bigint AS cpu_usec,
         (a.verdict -> 'usage' ->> 'memory_peak_bytes')::bigint AS memory_peak_bytes,
         (a.verdict -> 'usage' ->> 'io_read_bytes')::bigint AS io_read_bytes, (a.verdict -> 'usage' ->> 'io_write_bytes')::bigint AS io_write_bytes,
         (a.verdict -> 'usage' ->> 'net_rx_bytes')::bigint AS net_rx_bytes, (a.verdict -> 'usage' ->> 'net_tx_bytes')::bigint AS net_tx_bytes,
         (a.verdict -> 'usage' ->> 'output_bytes')::bigint AS output_bytes
  FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id
  WHERE a.tenant_id = @tenant_id AND a.ended_at >= @since::timestamptz AND a.ended_at < @until::timestamptz AND a.status <> 'released'
  UNION ALL
  SELECT d.tool, d.driver, d.attempts, d.lost, d.wall_ms, d.cpu_usec, d.memory_peak_bytes,
         d.io_read_bytes, d.io_write_bytes, d.net_rx_bytes, d.net_tx_bytes, d.output_bytes
  FROM nofx.usage_day d
  WHERE d.tenant_id = @tenant_id AND d.day::timestamp AT TIME ZONE 'UTC' >= @since::timestamptz AND d.day::timestamp AT TIME ZONE 'UTC' < @until::timestamptz
) u
GROUP BY 1, 2
ORDER BY 1, 2;
