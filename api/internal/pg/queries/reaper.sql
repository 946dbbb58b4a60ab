-- TryReaper makes its caller the only reaper until the end of the transaction.
-- name: TryReaper :one
SELECT pg_try_advisory_xact_lock(7314);

-- Tick notes that the reaper lives. After a pause longer than @pause_seconds
-- nothing may expire for one full lease, because nobody could renew meanwhile.
-- back_seconds is how far the clock has gone back since the tick before, at least.
-- The clock as it is now, not when the transaction began: between two ticks it
-- goes forward, whichever of two reapers began first.
-- name: Tick :one
WITH was AS (SELECT l.ticked_at FROM nofx.lease_clock l FOR NO KEY UPDATE)
UPDATE nofx.lease_clock c
SET hold_until = CASE WHEN w.ticked_at < clock_timestamp() - make_interval(secs => @pause_seconds::float8)
                      THEN greatest(c.hold_until, now() + make_interval(secs => @lease_seconds::float8)) ELSE c.hold_until END,
    ticked_at = clock_timestamp()
FROM was w
RETURNING (c.hold_until <= now())::bool AS may_expire, greatest(extract(epoch FROM w.ticked_at - c.ticked_at), 0)::float8 AS back_seconds;

-- LoseWorkers marks workers that were silent for a lease.
-- name: LoseWorkers :many
UPDATE nofx.worker SET status = 'lost'
WHERE status <> 'lost' AND last_seen < now() - make_interval(secs => @lease_seconds::float8)
RETURNING id, tenant_id;

-- Forsaken are runs that are pinned to a lost worker and can do without it: all
-- that steps of theirs left in the workspace is saved, and none runs there, on a
-- worker that is back and has not said so yet. The others wait for their worker
-- to come back; see Orphaned.
-- name: Forsaken :many
SELECT x.id FROM nofx.run x
WHERE x.pin <> '' AND x.ended_at IS NULL AND x.pin IN (SELECT w.id FROM nofx.worker w WHERE w.status = 'lost')
  AND NOT EXISTS (SELECT 1 FROM nofx.step s WHERE s.run_id = x.id AND s.shares AND (s.status = 'running' OR s.status = 'succeeded' AND NOT s.saved))
ORDER BY x.id
LIMIT @most;

-- LockPins keeps the workers that runs are pinned to from claiming until the end
-- of the transaction, for UnpinRuns: a claim does not lock the runs that are its
-- worker's already.
-- name: LockPins :exec
SELECT w.id FROM nofx.worker w
WHERE w.id IN (SELECT r.pin FROM nofx.run r WHERE r.id = ANY (@ids::text[]) AND r.pin <> '')
ORDER BY w.id
FOR NO KEY UPDATE;

-- UnpinRuns frees runs that can do without the worker that they are pinned to,
-- in their locked rows and with that worker locked, too. work tells whether there
-- is something in the workspace.
-- name: UnpinRuns :many
UPDATE nofx.run r SET pin = ''
WHERE r.id = ANY (@ids::text[]) AND r.pin <> '' AND r.ended_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM nofx.step s WHERE s.run_id = r.id AND s.shares AND (s.status = 'running' OR s.status = 'succeeded' AND NOT s.saved))
RETURNING r.id, EXISTS (SELECT 1 FROM nofx.step s WHERE s.run_id = r.id AND s.shares AND s.status = 'succeeded') AS work;

-- RunsAtWork are those of the runs in whose workspace a step is at work.
-- name: RunsAtWork :many
SELECT DISTINCT s.run_id FROM nofx.step s WHERE s.run_id = ANY (@ids::text[]) AND s.shares AND s.status = 'running';

-- Those that share its workspace go on in one region: that of the one that may be
-- in the fewest.
-- name: UnpinQueued :execrows
UPDATE nofx.step s SET pin = '', region = CASE WHEN s.shares THEN f.region ELSE s.region END
FROM (
  SELECT DISTINCT ON (o.run_id) o.run_id, o.region FROM nofx.step o
  WHERE o.run_id = ANY (@run_ids::text[]) AND o.shares AND o.status IN ('waiting', 'queued')
  ORDER BY o.run_id, cardinality(o.regions) = 0, cardinality(o.regions), o.idx
) f
WHERE s.run_id = f.run_id AND s.status IN ('waiting', 'queued') AND (s.pin <> '' OR s.shares AND s.region <> f.region);

-- name: ExpiredAttempts :many
SELECT id FROM nofx.attempt WHERE status = 'running' AND lease_until < now() ORDER BY id LIMIT @most;

-- name: LockExpired :many
SELECT a.id, a.tenant_id, a.run_id, a.step_id, a.generation, a.number, a.epoch, a.status, a.journal_n, a.output_bytes, a.blob_bytes, a.started_at, a.breaker_generation, a.probe, a.region,
       s.name, s.tries, s.losses, s.backoff_ms, s.retry, s.network, s.idempotent, s.dependants, s.shares, s.reads, s.shown, s.driver, s.lane, s.drivers, s.place, s.concurrency_key, s.region AS placed,
         (CASE WHEN cardinality(s.drivers) > 1 THEN EXISTS (SELECT 1 FROM nofx.attempt e
            WHERE e.step_id = s.id AND e.generation = s.generation AND e.started_at IS NOT NULL) ELSE false END)::bool AS touched,
         (CASE WHEN cardinality(s.drivers) > 1 AND s.shares THEN EXISTS (SELECT 1 FROM nofx.worker p, jsonb_array_elements(p.drivers::jsonb) d
            WHERE p.id = a.worker_id AND d ->> 'name' = s.drivers[s.place + 1] AND (d ->> 'healthy')::bool
              AND (cardinality(s.regions) = 0 OR coalesce(NULLIF(d ->> 'region', ''), p.region) = ANY (s.regions))) ELSE true END)::bool AS next_served, a.worker_id
FROM nofx.attempt a
JOIN nofx.step s ON s.id = a.step_id
WHERE a.id = ANY (@ids::text[]) AND a.status = 'running' AND a.lease_until < now()
ORDER BY a.id
FOR NO KEY UPDATE OF a;

-- LoseAttempts ends attempts whose lease has passed.
-- name: LoseAttempts :execrows
UPDATE nofx.attempt a SET status = 'lost', ended_at = now(), verdict = f.verdict::json
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@epochs::bigint[]) AS epoch, unnest(@verdicts::text[]) AS verdict) f
WHERE a.id = f.id AND a.epoch = f.epoch AND a.status = 'running' AND a.lease_until < now();

-- SeeDrivers notes which drivers are healthy now, and forgets those that have
-- not been for long.
-- name: SeeDrivers :exec
WITH old AS (DELETE FROM nofx.driver_seen WHERE healthy_at < now() - interval '30 days')
INSERT INTO nofx.driver_seen AS h (name, worker_id, healthy_at)
SELECT DISTINCT d->>'name', w.id, now()
FROM nofx.worker w, jsonb_array_elements(w.drivers::jsonb) d
WHERE w.status = 'live' AND (d->>'healthy')::bool
ON CONFLICT ON CONSTRAINT driver_seen_pk DO UPDATE SET healthy_at = excluded.healthy_at;

-- Orphaned lists queued steps whose run's workspace is on a worker that has
-- been lost for long.
-- name: Orphaned :many
SELECT s.id, s.run_id FROM nofx.step s
JOIN nofx.worker w ON w.id = s.pin
WHERE s.status = 'queued' AND s.pin <> '' AND w.status = 'lost' AND w.last_seen < now() - make_interval(secs => @wait_seconds::float8)
LIMIT @most;

-- FailQueued ends steps that nobody can take, in their run's locked row.
-- name: FailQueued :many
UPDATE nofx.step s SET status = 'failed', ended_at = now(), verdict = f.verdict::json, losses = s.losses + 1
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@verdicts::text[]) AS verdict) f
WHERE s.id = f.id AND s.status || '' = 'queued'
RETURNING s.id, s.run_id, s.name, s.attempt, s.dependants;

-- name: LockRuns :many
SELECT r.id, r.tenant_id, r.status, r.pin, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.cancel_at, r.started_at, r.retry_budget, r.retries, r.layers
FROM nofx.run r WHERE r.id = ANY (@ids::text[])
ORDER BY r.id
FOR NO KEY UPDATE;
