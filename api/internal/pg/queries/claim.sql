-- Where steps are found by their id or run, the test of their state is written
-- status || '' = 'queued'. The index step_queue cannot serve that, and must not:
-- to a planner with the statistics of a short queue, a walk through all of it
-- looks as cheap as one step.

-- LockClaim lets only one transaction at a time work on a claim id.
-- name: LockClaim :exec
SELECT pg_advisory_xact_lock(hashtextextended(@claim_id::text, 7313));

-- ClaimingWorker is the worker that a claim is for. Nobody marks it lost, or has
-- it back, until the claim's end: what is decided about a lost worker's runs
-- knows of all that it took. used tells whether the claim id has taken leases,
-- whatever became of them; LockClaim keeps that so.
-- name: ClaimingWorker :one
SELECT w.status, w.region, w.drivers, w.layers,
       EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.worker_id = @id AND a.claim_id = @claim_id) AS used
FROM nofx.worker w WHERE w.id = @id AND w.incarnation = @incarnation AND w.key_id = @key_id FOR SHARE OF w;

-- NoteLayers notes whether a worker knows of layers.
-- name: NoteLayers :exec
UPDATE nofx.worker SET layers = @layers::bool WHERE id = @id;

-- Claim takes queued steps for a worker. Between tenants it is fair: first to
-- who has least running, one of each in turn. Of a tenant's steps that the
-- worker may take those of the highest priority go first, then the oldest.
-- Steps that another claim is taking at this moment are skipped, and so are
-- runs that are being changed; neither is waited for. fresh tells whether a run
-- was started or pinned. A worker that knows nothing of layers (not @layers)
-- would begin a run that has some with an empty workspace, and does not get it.
-- Of a breaker that is not closed only the row is read, however many steps
-- wait behind it, and if a probe may go, one of them: who locks the row has it.
-- Where it counts who may run beside whom (a tenant's quota, a key) a claim
-- relies on its count only if it gets the lock of the row that counts go by,
-- and finds that as it was when it counted. Steps whose key has no room are
-- parked, so that the next claim need not step over them. A last row with an
-- empty id says that it is worth asking again: some were parked, or another
-- claim had such a lock.
-- What the worker leaves to others (@unfit) is passed over.
-- docs/queue.md explains the statement with its plan.
-- name: Claim :many
WITH RECURSIVE tenants AS (
  (SELECT s.tenant_id FROM nofx.step s WHERE s.status = 'queued' ORDER BY s.tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT s.tenant_id FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id > t.tenant_id ORDER BY s.tenant_id LIMIT 1)
  FROM tenants t WHERE t.tenant_id IS NOT NULL
), share AS MATERIALIZED ( -- of each tenant: what runs, of which only so much is counted as may matter, and what may
  SELECT b.tenant_id, b.max_steps, b.residency,
         (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'running' AND s.tenant_id = t.tenant_id LIMIT coalesce(b.max_steps, 100)) c) AS running
  FROM tenants t
  CROSS JOIN LATERAL (SELECT x.tenant_id, x.max_steps, x.residency FROM nofx.tenant x WHERE x.tenant_id = t.tenant_id LIMIT 1) b
  WHERE t.tenant_id <> ALL (coalesce(@spent::text[], '{}')) -- who has used up a quota
), walk AS ( -- to every lane that has steps in the queue, and there to every rank and its first step
  SELECT t.tenant_id, p.pin, d.driver, d.region AS home, g.region, n.lane, n.rank, n.due_at
  FROM share t
  CROSS JOIN (SELECT unnest(@drivers::text[]) AS driver, unnest(@regions::text[]) AS region) d
  CROSS JOIN unnest(ARRAY['', @worker_id::text]) AS p(pin)
  CROSS JOIN LATERAL unnest(ARRAY['', d.region]) AS g(region)
  CROSS JOIN LATERAL (
    SELECT s.lane, s.rank, s.due_at FROM nofx.step s
    WHERE s.status = 'queued' AND NOT s.parked AND s.tenant_id = t.tenant_id AND s.pin = p.pin AND s.driver = d.driver AND s.region = g.region
    ORDER BY s.lane, s.rank, s.due_at LIMIT 1
  ) n
  WHERE (t.max_steps IS NULL OR t.running < t.max_steps)
    AND (cardinality(t.residency) = 0 OR d.region = ANY (t.residency) AND @region::text = ANY (t.residency))
  UNION ALL
  SELECT w.tenant_id, w.pin, w.driver, w.home, w.region, n.lane, n.rank, n.due_at
  FROM walk w
  CROSS JOIN LATERAL (
    SELECT s.lane, s.rank, s.due_at FROM nofx.step s
    WHERE s.status = 'queued' AND NOT s.parked AND s.tenant_id = w.tenant_id AND s.pin = w.pin AND s.driver = w.driver AND s.region = w.region
      AND (s.lane, s.rank) > (w.lane, w.rank)
    ORDER BY s.lane, s.rank, s.due_at LIMIT 1
  ) n
), lanes AS (
  SELECT w.*, h.lane IS NOT NULL AS probe
  FROM walk w
  LEFT JOIN nofx.handler_health h ON h.lane = w.lane AND h.driver = w.driver AND h.state <> 'closed'
  WHERE h.lane IS NULL OR h.ready_at <= now()
), near AS ( -- from the first on: before it the index has what was taken just now, which is slow to pass
  SELECT c.id, c.run_id, c.shares, c.due_at, c.key, c.most, l.tenant_id, l.home, l.rank, l.lane, l.driver, l.probe,
         row_number() OVER (PARTITION BY l.probe, l.lane, l.driver, l.tenant_id ORDER BY l.rank, c.due_at, c.id) AS own_nth,
         row_number() OVER (PARTITION BY l.tenant_id, c.key ORDER BY l.rank, c.due_at, c.id) AS key_nth
  FROM lanes l
  CROSS JOIN LATERAL (
    SELECT s.id, s.run_id, s.shares, s.due_at, s.concurrency_key AS key, s.concurrency_most AS most FROM nofx.step s
    WHERE s.status = 'queued' AND NOT s.parked AND s.tenant_id = l.tenant_id AND s.pin = l.pin AND s.driver = l.driver AND s.region = l.region
      AND s.lane = l.lane AND s.rank = l.rank AND s.due_at >= l.due_at AND s.due_at <= now() AND s.id <> ALL (coalesce(@unfit::text[], '{}'))
    ORDER BY s.due_at, s.id
    LIMIT CASE WHEN l.probe THEN 1 ELSE @reach::int END
  ) c
), first AS ( -- of each breaker's steps: that of the tenant that has waited the longest with its first
  SELECT DISTINCT ON (n.lane, n.driver) n.id FROM near n WHERE n.probe AND n.own_nth = 1 ORDER BY n.lane, n.driver, n.due_at, n.id
), room AS ( -- breakers whose probe this claim may take
  SELECT h.lane, h.driver FROM nofx.handler_health h
  WHERE (h.lane, h.driver) IN (SELECT n.lane, n.driver FROM near n WHERE n.probe) AND h.state <> 'closed' AND h.ready_at <= now()
  FOR NO KEY UPDATE SKIP LOCKED
), counted AS MATERIALIZED ( -- by what the steps that are near are bounded; the key '' is the tenant
  SELECT k.tenant_id, k.key, v.version,
         (SELECT count(*) FROM nofx.step s WHERE s.status = 'running' AND s.tenant_id = k.tenant_id AND s.concurrency_key = k.key AND k.key <> '') AS running
  FROM (SELECT DISTINCT n.tenant_id, u.key FROM near n JOIN share t USING (tenant_id)
        CROSS JOIN LATERAL unnest(ARRAY[n.key, '']) AS u(key) WHERE u.key <> '' OR t.max_steps IS NOT NULL) k
  CROSS JOIN LATERAL (SELECT c.version FROM nofx.concurrency c WHERE c.tenant_id = k.tenant_id AND c.key = k.key LIMIT 1) v
), doors AS ( -- those of them that this claim may rely on
  SELECT k.tenant_id, k.key, k.running
  FROM counted k
  CROSS JOIN LATERAL (
    SELECT c.version FROM nofx.concurrency c WHERE c.tenant_id = k.tenant_id AND c.key = k.key
    LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
  ) c
  WHERE c.version = k.version
), may AS (
  SELECT n.*, t.running, t.max_steps, least(t.running, 100) AS busy, row_number() OVER (PARTITION BY n.tenant_id ORDER BY n.rank, n.due_at, n.id) AS turn
  FROM near n
  JOIN share t ON t.tenant_id = n.tenant_id
  LEFT JOIN doors k ON k.tenant_id = n.tenant_id AND k.key = n.key AND n.key <> ''
  WHERE (NOT n.probe OR n.id IN (SELECT f.id FROM first f) AND (n.lane, n.driver) IN (SELECT m.lane, m.driver FROM room m))
    AND (n.key = '' OR n.key_nth <= n.most - k.running)
    AND (t.max_steps IS NULL OR EXISTS (SELECT 1 FROM doors o WHERE o.tenant_id = n.tenant_id AND o.key = ''))
), held AS ( -- by lot between tenants that run more than are counted; one by one, in their order, until there are enough; before each its run, if it has to be started or pinned: see PinQueued
  SELECT s.id, s.run_id, s.shares, r.run_status, r.run_pin, n.home, n.probe, n.max_steps IS NOT NULL AS bounded
  FROM (SELECT * FROM may m WHERE m.max_steps IS NULL OR m.running + m.turn <= m.max_steps
        ORDER BY m.busy + m.turn, CASE WHEN m.busy = 100 THEN hashtext(m.tenant_id || @claim_id::text) ELSE 0 END, m.due_at, m.id) n
  CROSS JOIN LATERAL (
    SELECT a.id, a.run_status, a.run_pin FROM (
      SELECT r.id, r.status AS run_status, r.pin AS run_pin FROM nofx.run r
      WHERE r.id = n.run_id AND r.status <> 'queued' AND (NOT n.shares OR r.pin = @worker_id) LIMIT 1) a
    UNION ALL
    SELECT b.id, b.run_status, b.run_pin FROM (
      SELECT r.id, r.status AS run_status, r.pin AS run_pin FROM nofx.run r
      WHERE r.id = n.run_id AND (r.status = 'queued' OR n.shares AND r.pin = '') AND (NOT n.shares OR r.pin IN ('', @worker_id))
        AND (@layers::bool OR NOT n.shares OR r.pin <> '' OR r.layers = 0)
      LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) b
  ) r
  CROSS JOIN LATERAL (
    SELECT s.id, s.run_id, s.shares FROM nofx.step s
    WHERE s.id = n.id AND s.status || '' = 'queued' AND s.run_id || '' = r.id AND s.shares = n.shares
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
  ) s
  LIMIT @most::int
), crowd AS ( -- steps whose key has no room
  SELECT s.id
  FROM near n
  JOIN doors k ON k.tenant_id = n.tenant_id AND k.key = n.key
  CROSS JOIN LATERAL (
    SELECT s.id FROM nofx.step s WHERE s.id = n.id AND s.status || '' = 'queued' AND NOT s.parked
    LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
  ) s
  WHERE n.key <> '' AND k.running >= n.most
), aside AS (
  UPDATE nofx.step s SET parked = true FROM crowd c WHERE s.id = c.id AND s.id = ANY (ARRAY (SELECT i.id FROM crowd i))
  RETURNING s.id
), fresh AS ( -- runs that this claim starts or pins
  SELECT r.id FROM nofx.run r
  WHERE r.id = ANY (ARRAY (SELECT h.run_id FROM held h WHERE h.run_status = 'queued' OR (h.shares AND h.run_pin = '')))
    AND r.pin IN ('', @worker_id)
  FOR NO KEY UPDATE SKIP LOCKED
), pinned AS (
  UPDATE nofx.run r
  SET status = CASE WHEN r.status = 'queued' THEN 'running' ELSE r.status END,
      pin = CASE WHEN r.id IN (SELECT h.run_id FROM held h WHERE h.shares) THEN @worker_id ELSE r.pin END,
      workspace_no = CASE WHEN r.pin = '' AND r.id IN (SELECT h.run_id FROM held h WHERE h.shares) THEN r.workspace_no + 1 ELSE r.workspace_no END
  FROM fresh f
  WHERE r.id = f.id AND r.id = ANY (ARRAY (SELECT i.id FROM fresh i))
), taken AS ( -- found in what is held by its place there: a join of the two looks at each pair
  UPDATE nofx.step s
  SET status = 'running', attempt = s.attempt + 1, epoch = s.epoch + 1
  WHERE s.id = ANY (ARRAY (SELECT h.id FROM held h
                           WHERE (h.run_status <> 'queued' AND (NOT h.shares OR h.run_pin <> '')) OR h.run_id IN (SELECT f.id FROM fresh f)))
    AND s.status || '' = 'queued'
  RETURNING s.id, s.tenant_id, s.run_id, s.generation, s.attempt, s.epoch, s.driver, s.lane, s.moved, s.concurrency_key,
            array_position(ARRAY (SELECT h.id FROM held h), s.id) AS nth
), onward AS ( -- whoever counted before this claim must count again
  UPDATE nofx.concurrency c SET version = c.version + 1
  FROM (SELECT DISTINCT t.tenant_id, u.key FROM taken t
        CROSS JOIN LATERAL unnest(ARRAY[t.concurrency_key, '']) AS u(key) WHERE u.key <> '' OR (ARRAY (SELECT h.bounded FROM held h))[t.nth]) k
  WHERE c.tenant_id = k.tenant_id AND c.key = k.key
), numbered AS (
  SELECT t.*, (@attempt_ids::text[])[t.nth] AS attempt_id, (ARRAY (SELECT h.home FROM held h))[t.nth] AS home, (ARRAY (SELECT h.probe FROM held h))[t.nth] AS probe
  FROM taken t
), lent AS (
  UPDATE nofx.handler_health h
  SET state = 'half_open', generation = h.generation + 1, probe_id = n.attempt_id, ready_at = now() + make_interval(secs => h.probe_ms / 1000.0::float8),
      reason = 'the cool-down is over: one step is tried', changed_at = now()
  FROM numbered n
  WHERE n.probe AND h.lane = n.lane AND h.driver = n.driver
  RETURNING h.lane, h.driver, h.generation
), begun AS (
  INSERT INTO nofx.attempt (id, tenant_id, run_id, step_id, generation, number, epoch, worker_id, claim_id, lease_until, driver, region, moved, probe, breaker_generation)
  SELECT n.attempt_id, n.tenant_id, n.run_id, n.id, n.generation, n.attempt, n.epoch,
         @worker_id, @claim_id, now() + make_interval(secs => @lease_seconds::float8), n.driver, n.home, n.moved, n.probe,
         coalesce((SELECT l.generation FROM lent l WHERE n.probe AND l.lane = n.lane AND l.driver = n.driver),
                  (SELECT h.generation FROM nofx.handler_health h WHERE h.lane = n.lane AND h.driver = n.driver), 0)
  FROM numbered n
  RETURNING id, probe
)
SELECT b.id, b.probe, EXISTS (SELECT 1 FROM fresh) AS fresh FROM begun b
UNION ALL
SELECT '', false, false WHERE EXISTS (SELECT 1 FROM aside) OR EXISTS (SELECT 1 FROM counted k WHERE (k.tenant_id, k.key) NOT IN (SELECT d.tenant_id, d.key FROM doors d));

-- PinQueued brings the other queued steps of runs that a claim has pinned to
-- the same worker. No other claim has them: it would have had to lock their run.
-- name: PinQueued :exec
UPDATE nofx.step s SET pin = @worker_id
WHERE s.status || '' = 'queued' AND s.shares AND s.pin = ''
  AND s.run_id IN (SELECT a.run_id FROM nofx.attempt a JOIN nofx.run r ON r.id = a.run_id
                   WHERE a.worker_id = @worker_id AND a.claim_id = @claim_id AND a.status = 'running' AND r.pin = @worker_id AND r.steps_left > 1);

-- LeasesOfClaim are the leases that a claim took and that are still the
-- worker's. snapshot: a step that is to come may need what this one leaves in the
-- run's workspace. restore: it is tried again, after infrastructure ended it in
-- the middle. layers make the workspace, when there is something in it that
-- steps left and all of that is saved.
-- name: LeasesOfClaim :many
SELECT a.id, a.tenant_id, a.run_id, a.step_id, a.generation, a.number, a.epoch,
       s.name, s.tool, s.driver, s.shares, s.command, s.sealed, s.resources, s.image, s.on_output, s.network, s.network_allow, t.network_private, s.workspace, s.timeout_ms, s.grace_ms, s.artifacts,
       r.correlation_id, s.lane, a.breaker_generation, r.workspace_no, r.layers AS last_layer, s.region AS placed, s.regions, t.residency,
       (s.shares AND (r.steps_left > 1 OR r.steps_failed + r.steps_cancelled > 0) AND EXISTS (
          SELECT 1 FROM nofx.step o WHERE o.run_id = s.run_id AND o.shares AND o.id <> s.id AND o.status <> 'succeeded'))::bool AS snapshot,
       (s.shares AND a.number > 1 AND EXISTS (
          SELECT 1 FROM nofx.attempt e WHERE e.step_id = s.id AND e.generation = a.generation AND e.number = a.number - 1 AND e.started_at IS NOT NULL
            AND (e.status = 'lost' OR e.status = 'ended' AND e.verdict ->> 'cause' IN ('lost', 'driver_error')))
          AND NOT EXISTS (SELECT 1 FROM nofx.step o WHERE o.run_id = s.run_id AND o.shares AND o.status = 'succeeded' AND NOT o.saved))::bool AS restore,
       CASE WHEN s.shares AND r.layers > 0 THEN w.layers END::json AS layers,
       (extract(epoch FROM a.lease_until - now()) * 1000)::bigint AS lease_ms
FROM nofx.attempt a
JOIN nofx.step s ON s.id = a.step_id
JOIN nofx.run r ON r.id = a.run_id
JOIN nofx.tenant t ON t.tenant_id = a.tenant_id
LEFT JOIN LATERAL (
  SELECT json_agg(json_build_object('seq', l.seq, 'sha256', l.sha256, 'size', l.size, 'bytes', l.bytes, 'full', l.full_one) ORDER BY l.seq) AS layers
  FROM nofx.workspace_layer l
  WHERE l.run_id = r.id AND l.removed_at IS NULL AND s.shares AND r.layers > 0
    AND EXISTS (SELECT 1 FROM nofx.step o WHERE o.run_id = r.id AND o.shares AND o.status = 'succeeded')
    AND NOT EXISTS (SELECT 1 FROM nofx.step o WHERE o.run_id = r.id AND o.shares AND o.status = 'succeeded' AND NOT o.saved)
) w ON s.shares AND r.layers > 0
WHERE a.worker_id = @worker_id AND a.claim_id = @claim_id AND a.status = 'running'
ORDER BY a.claimed_at, a.epoch, a.id;

-- LockRunsNow locks the runs of attempts that a claim has just taken, as far as
-- nobody else has them: a claim waits for no run.
-- name: LockRunsNow :many
SELECT r.id, r.tenant_id, r.status, r.pin, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.cancel_at, r.started_at, r.retry_budget, r.retries, r.layers
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
SELECT EXISTS (SELECT 1 FROM nofx.step WHERE status = 'queued' AND NOT parked AND due_at <= now());

-- name: QueueDepth :one
SELECT count(*) FROM (SELECT 1 FROM nofx.step WHERE status = 'queued' LIMIT 100000) x;
