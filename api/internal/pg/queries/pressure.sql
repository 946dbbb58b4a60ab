-- TryPressure makes its caller the only one that looks for episodes until the
-- end of the transaction.
-- name: TryPressure :one
SELECT pg_try_advisory_xact_lock(7317);

-- Pressed are the tenants whose oldest step has been due for so long, with that
-- step. known tells that their episode is open, barred that the tenant's own
-- quota keeps its steps back now; of max_steps steps at once running do run, and
-- 0 = that is not bounded.
-- name: Pressed :many
WITH RECURSIVE tenants AS (
  (SELECT s.tenant_id FROM nofx.step s WHERE s.status || '' = 'queued' AND NOT s.parked ORDER BY s.tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT s.tenant_id FROM nofx.step s WHERE s.status || '' = 'queued' AND NOT s.parked AND s.tenant_id > t.tenant_id ORDER BY s.tenant_id LIMIT 1)
  FROM tenants t WHERE t.tenant_id IS NOT NULL
)
SELECT t.tenant_id::text AS tenant_id, o.run_id, o.id AS step_id, o.name AS step_name, extract(epoch FROM now() - o.due_at)::float8 AS age_seconds,
       EXISTS (SELECT 1 FROM nofx.queue_pressure p WHERE p.tenant_id = t.tenant_id) AS known,
       coalesce(b.max_steps, 0)::int AS max_steps, b.running::int AS running,
       (b.spent OR b.running >= b.max_steps IS TRUE)::bool AS barred
FROM tenants t
CROSS JOIN LATERAL (
  SELECT x.max_steps,
         (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'running' AND s.tenant_id = t.tenant_id LIMIT coalesce(x.max_steps, 0)) c) AS running,
         x.month_compute_ms IS NOT NULL AND x.month_compute_ms <= coalesce((SELECT sum(m.compute_ms) FROM nofx.month_usage m
           WHERE m.tenant_id = t.tenant_id AND m.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date), 0) AS spent
  FROM nofx.tenant x WHERE x.tenant_id = t.tenant_id LIMIT 1
) b
CROSS JOIN LATERAL (
  SELECT s.run_id, s.id, s.name, s.due_at FROM nofx.step s
  WHERE s.status || '' = 'queued' AND NOT s.parked AND s.tenant_id = t.tenant_id AND s.due_at <= now() - make_interval(secs => @seconds::float8)
  ORDER BY s.due_at LIMIT 1
) o
ORDER BY o.due_at;

-- EndPressure ends the episodes of all other tenants.
-- name: EndPressure :exec
DELETE FROM nofx.queue_pressure WHERE tenant_id <> ALL (@pressed::text[]);

-- BeginPressure begins an episode, and gives how many steps of the tenant are
-- due, counted to 100,000.
-- name: BeginPressure :one
WITH begun AS (
  INSERT INTO nofx.queue_pressure (tenant_id, run_id) VALUES (@tenant_id, @run_id) ON CONFLICT ON CONSTRAINT queue_pressure_pk DO NOTHING
)
SELECT nofx.alert_value(@tenant_id, 'queue_depth')::bigint AS depth;

-- QueuePressure is how long the oldest step has been due of all tenants whose own
-- quota does not keep their steps back, and how many tenants have an episode open.
-- name: QueuePressure :one
WITH RECURSIVE tenants AS (
  (SELECT s.tenant_id FROM nofx.step s WHERE s.status || '' = 'queued' AND NOT s.parked ORDER BY s.tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT s.tenant_id FROM nofx.step s WHERE s.status || '' = 'queued' AND NOT s.parked AND s.tenant_id > t.tenant_id ORDER BY s.tenant_id LIMIT 1)
  FROM tenants t WHERE t.tenant_id IS NOT NULL
)
SELECT coalesce((
         SELECT extract(epoch FROM now() - min(nofx.queue_oldest(t.tenant_id))) FROM tenants t
         CROSS JOIN LATERAL (SELECT x.max_steps, x.month_compute_ms FROM nofx.tenant x WHERE x.tenant_id = t.tenant_id LIMIT 1) b
         WHERE (b.max_steps IS NULL
                OR b.max_steps > (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'running' AND s.tenant_id = t.tenant_id LIMIT b.max_steps) c))
           AND (b.month_compute_ms IS NULL
                OR b.month_compute_ms > coalesce((SELECT sum(m.compute_ms) FROM nofx.month_usage m
                                                  WHERE m.tenant_id = t.tenant_id AND m.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date), 0))
       ), 0)::float8 AS oldest_seconds,
       (SELECT count(*) FROM nofx.queue_pressure) AS tenants;
