-- Charge adds what attempts used to their tenants' month. Rows are taken in
-- their key's order, so that two batches cannot hold one for the other.
-- name: Charge :exec
INSERT INTO nofx.month_usage AS m (tenant_id, month, part, attempts, compute_ms)
SELECT c.tenant_id, date_trunc('month', now() AT TIME ZONE 'UTC')::date, @part::int, count(*),
       sum(ceil(c.wall_ms * coalesce(NULLIF((s.resources ->> 'cpu')::float8, 0), 1)))::bigint
FROM (SELECT unnest(@tenant_ids::text[]) AS tenant_id, unnest(@step_ids::text[]) AS step_id, unnest(@walls_ms::bigint[]) AS wall_ms) c
CROSS JOIN LATERAL (SELECT x.resources FROM nofx.step x WHERE x.id = c.step_id LIMIT 1) s
GROUP BY c.tenant_id
ORDER BY c.tenant_id
ON CONFLICT ON CONSTRAINT month_usage_pk DO UPDATE
SET attempts = m.attempts + excluded.attempts, compute_ms = m.compute_ms + excluded.compute_ms;

-- MonthUsage is what a tenant has used this month, and may use; most_ms is 0
-- when that is not bounded.
-- name: MonthUsage :one
SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM')::text AS month,
       (t.month_compute_ms IS NOT NULL)::bool AS bounded, coalesce(t.month_compute_ms, 0)::bigint AS most_ms,
       coalesce((SELECT sum(m.compute_ms) FROM nofx.month_usage m
                 WHERE m.tenant_id = t.tenant_id AND m.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date), 0)::bigint AS compute_ms
FROM nofx.tenant t WHERE t.tenant_id = @tenant_id;

-- SpentTenants have used up what they may use this month.
-- name: SpentTenants :many
SELECT t.tenant_id FROM nofx.tenant t
WHERE t.month_compute_ms IS NOT NULL
  AND t.month_compute_ms <= coalesce((SELECT sum(m.compute_ms) FROM nofx.month_usage m
                                      WHERE m.tenant_id = t.tenant_id AND m.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date), 0)
ORDER BY t.tenant_id;

-- SetTenantQuota bounds what a tenant may use in a month; NULL = not at all.
-- name: SetTenantQuota :execrows
UPDATE nofx.tenant SET month_compute_ms = sqlc.narg(month_compute_ms) WHERE tenant_id = @tenant_id;
