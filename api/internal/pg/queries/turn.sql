-- Runs that are held: until their time, or until it is their turn among the runs
-- of their tenant. Their steps wait meanwhile. As in claim.sql, || '' keeps
-- statements from indexes that would do only while there is little: a run that
-- is known is found by its id, and run_held_order is for those that are first.

-- DueRuns are held for their time no longer, so many of each tenant.
-- name: DueRuns :many
WITH RECURSIVE tenants AS (
  (SELECT r.tenant_id FROM nofx.run r WHERE r.hold = 'time' AND r.ended_at IS NULL ORDER BY r.tenant_id LIMIT 1)
  UNION ALL
  SELECT n.tenant_id FROM tenants t
  CROSS JOIN LATERAL (SELECT r.tenant_id FROM nofx.run r WHERE r.hold = 'time' AND r.ended_at IS NULL AND r.tenant_id > t.tenant_id ORDER BY r.tenant_id LIMIT 1) n
), due AS MATERIALIZED (
  SELECT x.id FROM tenants t
  CROSS JOIN LATERAL (
    SELECT r.id FROM nofx.run r
    WHERE r.hold = 'time' AND r.ended_at IS NULL AND r.tenant_id = t.tenant_id AND r.start_at <= now()
    ORDER BY r.start_at LIMIT @most FOR NO KEY UPDATE SKIP LOCKED
  ) x
)
UPDATE nofx.run r SET hold = 'turn'
WHERE r.id = ANY (ARRAY (SELECT d.id FROM due d)) AND r.hold || '' = 'time' AND r.ended_at IS NULL
RETURNING r.tenant_id;

-- HeldTenants have runs that wait for their turn.
-- name: HeldTenants :many
WITH RECURSIVE tenants AS (
  (SELECT r.tenant_id FROM nofx.run r WHERE r.hold = 'turn' AND r.ended_at IS NULL ORDER BY r.tenant_id LIMIT 1)
  UNION ALL
  SELECT n.tenant_id FROM tenants t
  CROSS JOIN LATERAL (SELECT r.tenant_id FROM nofx.run r WHERE r.hold = 'turn' AND r.ended_at IS NULL AND r.tenant_id > t.tenant_id ORDER BY r.tenant_id LIMIT 1) n
)
SELECT tenant_id::text AS tenant_id FROM tenants;

-- LockTurns lets only one transaction at a time let runs of a tenant go.
-- name: LockTurns :exec
SELECT pg_advisory_xact_lock(hashtextextended(@tenant_id::text, 7316));

-- NextRuns are those of the tenant whose turn it is: the highest priority
-- first, then the oldest, as far as its quota and their keys have room. It looks
-- at the first of all, and at those of so many keys from one on: where more keys
-- wait, and what is first of all has no room, the others come round. A last row
-- with an empty id tells from which key on to look the next time.
-- name: NextRuns :many
WITH RECURSIVE walk AS (
  (SELECT r.concurrency_key AS key, 1 AS nth FROM nofx.run r
   WHERE r.tenant_id = @tenant_id AND r.hold = 'turn' AND r.ended_at IS NULL AND r.concurrency_key >= @from_key ORDER BY r.concurrency_key LIMIT 1)
  UNION ALL
  SELECT n.key, k.nth + 1 FROM walk k
  CROSS JOIN LATERAL (SELECT r.concurrency_key AS key FROM nofx.run r
                      WHERE r.tenant_id = @tenant_id AND r.hold = 'turn' AND r.ended_at IS NULL AND r.concurrency_key > k.key ORDER BY r.concurrency_key LIMIT 1) n
  WHERE k.nth <= @keys::int
), front AS MATERIALIZED (
  SELECT r.concurrency_key AS key FROM nofx.run r
  WHERE r.tenant_id = @tenant_id AND r.hold || '' = 'turn' AND r.ended_at IS NULL
  ORDER BY r.rank, r.start_at, r.id LIMIT @most
), keys AS (
  SELECT w.key FROM walk w WHERE w.nth <= @keys::int
  UNION
  SELECT f.key FROM front f
), room AS (
  SELECT CASE WHEN t.max_runs IS NULL THEN @most::bigint
              ELSE t.max_runs - (SELECT count(*) FROM nofx.run r WHERE r.tenant_id = @tenant_id AND r.hold = '' AND r.ended_at IS NULL) END AS most
  FROM nofx.tenant t WHERE t.tenant_id = @tenant_id
), next AS (
  SELECT c.id, c.rank, c.start_at
  FROM keys k
  CROSS JOIN LATERAL (
    SELECT n.*, row_number() OVER (ORDER BY n.rank, n.start_at, n.id) AS nth,
           (SELECT count(*) FROM nofx.run a WHERE a.tenant_id = @tenant_id AND a.concurrency_key = k.key AND a.hold = '' AND a.ended_at IS NULL AND k.key <> '') AS running
    FROM (SELECT r.id, r.rank, r.start_at, r.concurrency_most FROM nofx.run r
          WHERE r.tenant_id = @tenant_id AND r.hold = 'turn' AND r.ended_at IS NULL AND r.concurrency_key = k.key
          ORDER BY r.rank, r.start_at, r.id LIMIT @most) n
  ) c
  WHERE k.key = '' OR c.nth <= c.concurrency_most - c.running
  ORDER BY c.rank, c.start_at, c.id
  LIMIT greatest(least((SELECT most FROM room), @most), 0)
)
(SELECT n.id::text AS id, ''::text AS next_key FROM next n ORDER BY n.rank, n.start_at, n.id)
UNION ALL
SELECT '', w.key FROM walk w WHERE w.nth > @keys::int;

-- LetGo lets runs begin.
-- name: LetGo :many
UPDATE nofx.run SET hold = '' WHERE id = ANY (@ids::text[]) AND hold = 'turn' AND ended_at IS NULL RETURNING id;

-- EnqueueRoots queues the steps of such runs that wait for no other.
-- name: EnqueueRoots :many
UPDATE nofx.step s SET status = 'queued', due_at = now(), pin = CASE WHEN s.shares THEN r.pin ELSE '' END
FROM nofx.run r
WHERE r.id = s.run_id AND s.run_id = ANY (@run_ids::text[]) AND s.status = 'waiting' AND s.deps_left = 0
RETURNING s.id, s.run_id, s.name, s.idx, s.driver, s.region, s.pin;

-- TenantTurn is what bounds how a tenant's runs and steps begin; running counts
-- no further than matters.
-- name: TenantTurn :one
SELECT coalesce(t.max_runs, 0)::int AS max_runs, coalesce(t.max_steps, 0)::int AS max_steps,
       (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'running' AND s.tenant_id = t.tenant_id LIMIT coalesce(t.max_steps, 0)) c)::int AS steps_running
FROM nofx.tenant t WHERE t.tenant_id = @tenant_id;

-- SetTenantConcurrency bounds how many runs and steps of a tenant may run at
-- once; 0 = not at all, NULL = as it is.
-- name: SetTenantConcurrency :execrows
WITH door AS (
  INSERT INTO nofx.concurrency (tenant_id, key)
  SELECT t.tenant_id, '' FROM nofx.tenant t WHERE t.tenant_id = @tenant_id
  ON CONFLICT ON CONSTRAINT concurrency_pk DO NOTHING
)
UPDATE nofx.tenant x SET max_runs = NULLIF(coalesce(sqlc.narg(max_runs), x.max_runs), 0), max_steps = NULLIF(coalesce(sqlc.narg(max_steps), x.max_steps), 0) WHERE x.tenant_id = @tenant_id;
