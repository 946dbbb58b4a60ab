-- The end of an attempt changes its step here. Each UPDATE compares the fence
-- and the old state, and its run's row is locked before.

-- EndSteps gives steps their terminal state in this generation.
-- fence: step
-- name: EndSteps :many
UPDATE nofx.step s
SET status = f.status, ended_at = now(), verdict = f.verdict::json, outputs = NULLIF(f.outputs, '')::json, losses = s.losses + f.lost, saved = f.saved
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@attempts::int[]) AS attempt,
             unnest(@epochs::bigint[]) AS epoch, unnest(@statuses::text[]) AS status, unnest(@verdicts::text[]) AS verdict,
             unnest(@outputs::text[]) AS outputs, unnest(@lost::int[]) AS lost, unnest(@saved::bool[]) AS saved) f
WHERE s.id = f.id AND s.generation = f.generation AND s.attempt = f.attempt AND s.epoch = f.epoch AND s.status || '' = 'running'
RETURNING s.id;

-- RetrySteps puts steps back into the queue for their next attempt.
-- fence: step
-- name: RetrySteps :many
UPDATE nofx.step s
SET status = 'queued', due_at = now() + make_interval(secs => f.wait_ms / 1000.0::float8), losses = s.losses + f.lost, pin = f.pin
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@attempts::int[]) AS attempt,
             unnest(@epochs::bigint[]) AS epoch, unnest(@waits_ms::bigint[]) AS wait_ms, unnest(@lost::int[]) AS lost,
             unnest(@pins::text[]) AS pin) f
WHERE s.id = f.id AND s.generation = f.generation AND s.attempt = f.attempt AND s.epoch = f.epoch AND s.status || '' = 'running'
RETURNING s.id;

-- UnclaimSteps undoes a claim: the attempt does not count, and the step has its place in the queue again.
-- fence: step
-- name: UnclaimSteps :many
UPDATE nofx.step s
SET status = 'queued', attempt = s.attempt - 1, pin = f.pin
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@attempts::int[]) AS attempt,
             unnest(@epochs::bigint[]) AS epoch, unnest(@pins::text[]) AS pin) f
WHERE s.id = f.id AND s.generation = f.generation AND s.attempt = f.attempt AND s.epoch = f.epoch AND s.status || '' = 'running'
RETURNING s.id;

-- CountDown tells dependants that steps they wait for have succeeded; one
-- entry for each such step. Those that wait for nothing more are queued.
-- name: CountDown :many
UPDATE nofx.step s
SET deps_left = s.deps_left - c.n,
    status = CASE WHEN s.deps_left = c.n THEN 'queued' ELSE s.status END,
    due_at = now(),
    pin = CASE WHEN s.shares THEN r.pin ELSE '' END
FROM (SELECT d.id, count(*)::int AS n FROM unnest(@ids::text[]) AS d(id) GROUP BY d.id) c, nofx.run r
WHERE s.id = c.id AND r.id = s.run_id AND s.status = 'waiting'
RETURNING s.id, s.run_id, s.name, s.idx, s.status, s.driver, s.region, s.pin;

-- CancelBelow cancels the waiting steps below steps that did not succeed.
-- name: CancelBelow :many
WITH RECURSIVE below AS (
  SELECT unnest(@ids::text[]) AS id
  UNION
  SELECT unnest(s.dependants) FROM below b JOIN nofx.step s ON s.id = b.id
)
UPDATE nofx.step s SET status = 'cancelled', ended_at = now(), verdict = @verdict::json
FROM below b
WHERE s.id = b.id AND s.status = 'waiting'
RETURNING s.id, s.run_id, s.name, s.idx;

-- name: UpdateRuns :execrows
UPDATE nofx.run r
SET status = f.status, next_seq = f.next_seq, steps_left = f.steps_left, steps_failed = f.steps_failed, steps_cancelled = f.steps_cancelled, retries = f.retries,
    started_at = coalesce(r.started_at, CASE WHEN f.started THEN now() END),
    ended_at = CASE WHEN f.ended THEN now() END
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@statuses::text[]) AS status, unnest(@next_seqs::bigint[]) AS next_seq,
             unnest(@steps_left::int[]) AS steps_left, unnest(@steps_failed::int[]) AS steps_failed,
             unnest(@steps_cancelled::int[]) AS steps_cancelled, unnest(@retries::int[]) AS retries, unnest(@started::bool[]) AS started, unnest(@ended::bool[]) AS ended) f
WHERE r.id = f.id AND r.ended_at IS NULL;

-- InsertDead puts steps into the DLQ with what is known of each attempt.
-- name: InsertDead :exec
INSERT INTO nofx.step_dlq (id, tenant_id, run_id, step_id, generation, tool, driver, step_name, worker_id, cause, reason, attempts, history)
SELECT d.id, s.tenant_id, s.run_id, s.id, s.generation, s.tool, s.driver, s.name, coalesce(h.worker_id, ''), d.cause, d.reason, s.attempt, coalesce(h.history, '[]'::json)
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@step_ids::text[]) AS step_id, unnest(@causes::text[]) AS cause, unnest(@reasons::text[]) AS reason) d
JOIN nofx.step s ON s.id = d.step_id
CROSS JOIN LATERAL (
  SELECT json_agg(json_build_object('attempt', a.number, 'worker_id', a.worker_id, 'driver', a.driver, 'region', a.region, 'fallback', a.moved, 'driver_version', a.driver_version, 'claimed_at', a.claimed_at,
                                    'started_at', a.started_at, 'ended_at', a.ended_at, 'verdict', a.verdict) ORDER BY a.number) AS history,
         (array_agg(a.worker_id ORDER BY a.number DESC))[1] AS worker_id
  FROM nofx.attempt a WHERE a.step_id = s.id AND a.generation = s.generation AND a.status IN ('ended', 'lost')
) h
ON CONFLICT ON CONSTRAINT step_dlq_once DO NOTHING;
