-- Where steps are found by their id or run, the test of their state is written
-- status || '' = 'queued'. The index step_queue cannot serve that, and must not:
-- to a planner with the statistics of a short queue, a walk through all of it
-- looks as cheap as one step.

-- LockClaim lets only one transaction at a time work on a claim id.
-- name: LockClaim :exec
SELECT pg_advisory_xact_lock(hashtextextended(@claim_id::text, 7313));

-- ClaimUsed tells whether a claim id has taken leases, whatever became of them.
-- name: ClaimUsed :one
SELECT EXISTS (SELECT 1 FROM nofx.attempt WHERE worker_id = @worker_id AND claim_id = @claim_id);

-- Claim takes queued steps for a worker: of each tenant its oldest ones that
-- the worker may take, then one of each tenant in turn until there are enough.
-- Steps that another claim is taking at this moment are skipped, and so are
-- runs that are being changed; neither is waited for. fresh tells whether a run
-- was started or pinned.
-- Of a breaker that is not closed only the row is read, however many steps
-- wait behind it, and if a probe may go, one of them: who locks the row has it.
-- name: Claim :many
WITH RECURSIVE tenants AS (
  (SELECT s.tenant_id FROM nofx.step s WHERE s.status = 'queued' ORDER BY s.tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT s.tenant_id FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id > t.tenant_id ORDER BY s.tenant_id LIMIT 1)
  FROM tenants t WHERE t.tenant_id IS NOT NULL
), walk AS ( -- to every lane that has steps in the queue
  SELECT t.tenant_id, p.pin, d.driver,
         (SELECT s.lane FROM nofx.step s
          WHERE s.status = 'queued' AND s.tenant_id = t.tenant_id AND s.pin = p.pin AND s.driver = d.driver ORDER BY s.lane LIMIT 1) AS lane
  FROM tenants t
  CROSS JOIN unnest(@drivers::text[]) AS d(driver)
  CROSS JOIN unnest(ARRAY['', @worker_id::text]) AS p(pin)
  WHERE t.tenant_id IS NOT NULL AND t.tenant_id <> ALL (coalesce(@spent::text[], '{}')) -- who has used up a quota
  UNION ALL
  SELECT w.tenant_id, w.pin, w.driver,
         (SELECT s.lane FROM nofx.step s
          WHERE s.status = 'queued' AND s.tenant_id = w.tenant_id AND s.pin = w.pin AND s.driver = w.driver AND s.lane > w.lane ORDER BY s.lane LIMIT 1)
  FROM walk w WHERE w.lane IS NOT NULL
), lanes AS (
  SELECT w.tenant_id, w.pin, w.driver, w.lane, h.lane IS NOT NULL AS probe
  FROM walk w
  LEFT JOIN nofx.handler_health h ON h.lane = w.lane AND h.driver = w.driver AND h.state <> 'closed'
  WHERE w.lane IS NOT NULL AND (h.lane IS NULL OR h.ready_at <= now())
), near AS (
  SELECT c.id, c.due_at, l.lane, l.driver, l.probe, row_number() OVER (PARTITION BY l.tenant_id ORDER BY c.due_at, c.id) AS turn,
         row_number() OVER (PARTITION BY l.probe, l.lane, l.driver ORDER BY c.due_at, c.id) AS nth
  FROM lanes l
  CROSS JOIN LATERAL (
    SELECT s.id, s.due_at FROM nofx.step s
    WHERE s.status = 'queued' AND s.tenant_id = l.tenant_id AND s.pin = l.pin AND s.driver = l.driver AND s.lane = l.lane AND s.due_at <= now()
    ORDER BY s.due_at, s.id
    LIMIT CASE WHEN l.probe THEN 1 ELSE @reach::int END
  ) c
), room AS ( -- breakers whose probe this claim may take
  SELECT h.lane, h.driver FROM nofx.handler_health h
  WHERE (h.lane, h.driver) IN (SELECT n.lane, n.driver FROM near n WHERE n.probe) AND h.state <> 'closed' AND h.ready_at <= now()
  FOR NO KEY UPDATE SKIP LOCKED
), held AS ( -- one by one, in their order, until there are enough
  SELECT s.id, s.run_id, s.shares, s.run_status, s.run_pin, n.turn, n.due_at, n.probe
  FROM (SELECT * FROM near o
        WHERE NOT o.probe OR o.nth = 1 AND (o.lane, o.driver) IN (SELECT m.lane, m.driver FROM room m)
        ORDER BY o.turn, o.due_at, o.id) n
  CROSS JOIN LATERAL (
    SELECT s.id, s.run_id, s.shares, r.status AS run_status, r.pin AS run_pin
    FROM nofx.step s
    JOIN nofx.run r ON r.id = s.run_id
    WHERE s.id = n.id AND s.status || '' = 'queued' AND (NOT s.shares OR r.pin IN ('', @worker_id))
    LIMIT 1
    FOR NO KEY UPDATE OF s SKIP LOCKED
  ) s
  LIMIT @most::int
), fresh AS ( -- runs that this claim starts or pins
  SELECT r.id FROM nofx.run r
  WHERE r.id = ANY (ARRAY (SELECT h.run_id FROM held h WHERE h.run_status = 'queued' OR (h.shares AND h.run_pin = '')))
    AND r.pin IN ('', @worker_id)
  FOR NO KEY UPDATE SKIP LOCKED
), pinned AS (
  UPDATE nofx.run r
  SET status = CASE WHEN r.status = 'queued' THEN 'running' ELSE r.status END,
      pin = CASE WHEN r.id IN (SELECT h.run_id FROM held h WHERE h.shares) THEN @worker_id ELSE r.pin END
  FROM fresh f
  WHERE r.id = f.id AND r.id = ANY (ARRAY (SELECT i.id FROM fresh i))
), taken AS (
  UPDATE nofx.step s
  SET status = 'running', attempt = s.attempt + 1, epoch = s.epoch + 1
  FROM (
    SELECT h.id, h.turn, h.due_at, h.probe FROM held h
    WHERE (h.run_status <> 'queued' AND (NOT h.shares OR h.run_pin <> '')) OR h.run_id IN (SELECT f.id FROM fresh f)
  ) g
  WHERE s.id = g.id AND s.id = ANY (ARRAY (SELECT i.id FROM held i)) AND s.status || '' = 'queued'
  RETURNING s.id, s.tenant_id, s.run_id, s.generation, s.attempt, s.epoch, s.driver, s.lane, s.moved, g.turn, g.due_at, g.probe
), numbered AS (
  SELECT t.*, (@attempt_ids::text[])[row_number() OVER (ORDER BY t.turn, t.due_at, t.id)] AS attempt_id FROM taken t
), lent AS (
  UPDATE nofx.handler_health h
  SET state = 'half_open', generation = h.generation + 1, probe_id = n.attempt_id, ready_at = now() + make_interval(secs => h.probe_ms / 1000.0::float8),
      reason = 'the cool-down is over: one step is tried', changed_at = now()
  FROM numbered n
  WHERE n.probe AND h.lane = n.lane AND h.driver = n.driver
  RETURNING h.lane, h.driver, h.generation
)
INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, worker_id, claim_id, lease_until, driver, moved, probe, breaker_generation)
SELECT n.attempt_id, n.tenant_id, n.run_id, n.id, n.generation, n.attempt, n.epoch,
       @worker_id, @claim_id, now() + make_interval(secs => @lease_seconds::float8), n.driver, n.moved, n.probe,
       coalesce((SELECT l.generation FROM lent l WHERE n.probe AND l.lane = n.lane AND l.driver = n.driver),
                (SELECT h.generation FROM nofx.handler_health h WHERE h.lane = n.lane AND h.driver = n.driver), 0)
FROM numbered n
RETURNING id, probe, EXISTS (SELECT 1 FROM fresh) AS fresh;

-- PinQueued brings the other queued steps of runs that a claim has pinned to
-- the same worker.
-- name: PinQueued :exec
UPDATE nofx.step s SET pin = @worker_id
WHERE s.status || '' = 'queued' AND s.shares AND s.pin = ''
  AND s.run_id IN (SELECT a.run_id FROM nofx.attempt a JOIN nofx.run r ON r.id = a.run_id
                   WHERE a.worker_id = @worker_id AND a.claim_id = @claim_id AND a.status = 'running' AND r.pin = @worker_id AND r.steps_left > 1);

-- LeasesOfClaim are the leases that a claim took and that are still the
-- worker's.
-- name: LeasesOfClaim :many
SELECT a.id, a.tenant_id, a.run_id, a.step_id, a.generation, a.number, a.epoch,
       s.name, s.tool, s.driver, s.shares, s.command, s.resources, s.image, s.on_output, s.network, s.network_allow, t.network_private, s.workspace, s.timeout_ms, s.grace_ms, s.artifacts,
       r.correlation_id, s.lane, a.breaker_generation,
       (extract(epoch FROM a.lease_until - now()) * 1000)::bigint AS lease_ms
FROM nofx.attempt a
JOIN nofx.step s ON s.id = a.step_id
JOIN nofx.run r ON r.id = a.run_id
JOIN nofx.tenant t ON t.tenant_id = a.tenant_id
WHERE a.worker_id = @worker_id AND a.claim_id = @claim_id AND a.status = 'running'
ORDER BY a.claimed_at, a.epoch, a.id;

-- LockRunsNow locks the runs of attempts that a claim has just taken, as far as
-- nobody else has them: a claim waits for no run.
-- name: LockRunsNow :many
SELECT r.id, r.tenant_id, r.status, r.pin, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.cancel_at, r.started_at, r.retry_budget, r.retries
FROM nofx.run r
WHERE r.id IN (SELECT a.run_id FROM nofx.attempt a WHERE a.id = ANY (@ids::text[]))
ORDER BY r.id
FOR NO KEY UPDATE SKIP LOCKED;

-- RefuseAttempts ends attempts that a claim has just taken and that its worker
-- must not have. They do not count as taken by the claim's id.
-- fence: attempt
-- name: RefuseAttempts :execrows
UPDATE nofx.attempt a SET status = 'ended', ended_at = now(), verdict = f.verdict::json, claim_id = a.claim_id || E'\nrefused'
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
             unnest(@epochs::bigint[]) AS epoch, unnest(@verdicts::text[]) AS verdict) f
WHERE a.id = f.id AND a.generation = f.generation AND a.number = f.number AND a.epoch = f.epoch
  AND a.worker_id = @worker_id AND a.status = 'running'
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = a.worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id);

-- QueueWaits tells whether a step waits that is due.
-- name: QueueWaits :one
SELECT EXISTS (SELECT 1 FROM nofx.step WHERE status = 'queued' AND due_at <= now());

-- name: QueueDepth :one
SELECT count(*) FROM (SELECT 1 FROM nofx.step WHERE status = 'queued' LIMIT 100000) x;
