-- Keys bound how many steps with them run at once; see Claim. A step that is
-- parked waits, queued, until somebody unparks it: whoever ends one with its
-- key, and the tick.

-- EnsureKeys makes the rows that claims count by.
-- name: EnsureKeys :exec
INSERT INTO nofx.concurrency (tenant_id, key)
SELECT DISTINCT @tenant_id::text, k.key FROM unnest(@keys::text[]) AS k(key) ORDER BY k.key
ON CONFLICT ON CONSTRAINT concurrency_pk DO NOTHING;

-- PassKeys takes the locks of keys and tells whoever counted before that it
-- must count again. Rows are locked in the order of their key.
-- name: PassKeys :exec
UPDATE nofx.concurrency c SET version = c.version + 1
FROM (SELECT x.tenant_id, x.key FROM nofx.concurrency x
      WHERE (x.tenant_id, x.key) IN (SELECT unnest(@tenant_ids::text[]), unnest(@keys::text[]))
      ORDER BY x.tenant_id, x.key FOR NO KEY UPDATE) k
WHERE c.tenant_id = k.tenant_id AND c.key = k.key;

-- Unpark brings back the first of the steps that are parked for keys, as many
-- of each as the key has room for, and of a key that has room so many to spare.
-- Its caller has the keys' locks.
-- name: Unpark :many
UPDATE nofx.step s SET parked = false
FROM (
  SELECT f.id
  FROM (SELECT DISTINCT unnest(@tenant_ids::text[]) AS tenant_id, unnest(@keys::text[]) AS key) k
  CROSS JOIN LATERAL (
    SELECT n.id, n.most, row_number() OVER (ORDER BY n.rank, n.due_at, n.id) AS nth,
           (SELECT count(*) FROM nofx.step r WHERE r.status = 'running' AND r.tenant_id = k.tenant_id AND r.concurrency_key = k.key) AS running
    FROM (SELECT p.id, p.rank, p.due_at, p.concurrency_most AS most FROM nofx.step p
          WHERE p.status = 'queued' AND p.parked AND p.tenant_id = k.tenant_id AND p.concurrency_key = k.key
          ORDER BY p.rank, p.due_at, p.id LIMIT @most::int FOR NO KEY UPDATE SKIP LOCKED) n
  ) f
  WHERE f.nth <= f.most - f.running + CASE WHEN f.running < f.most THEN @spare::int ELSE 0 END
) u
WHERE s.id = u.id AND s.status || '' = 'queued' AND s.parked
RETURNING s.driver, s.region, s.pin;

-- ParkedKeys are keys that steps are parked for, from after one on.
-- name: ParkedKeys :many
WITH RECURSIVE keys AS (
  (SELECT s.tenant_id, s.concurrency_key AS key FROM nofx.step s
   WHERE s.status = 'queued' AND s.parked AND (s.tenant_id, s.concurrency_key) > (@after_tenant::text, @after_key::text)
   ORDER BY s.tenant_id, s.concurrency_key LIMIT 1)
  UNION ALL
  SELECT n.tenant_id, n.key FROM keys k
  CROSS JOIN LATERAL (SELECT s.tenant_id, s.concurrency_key AS key FROM nofx.step s
   WHERE s.status = 'queued' AND s.parked AND (s.tenant_id, s.concurrency_key) > (k.tenant_id, k.key)
   ORDER BY s.tenant_id, s.concurrency_key LIMIT 1) n
)
SELECT k.tenant_id::text AS tenant_id, k.key::text AS key FROM keys k LIMIT @most;

-- MendKeys makes rows that steps need and that are not there: a key that
-- was dropped as unused while a run with it was on its way in.
-- name: MendKeys :exec
INSERT INTO nofx.concurrency (tenant_id, key)
SELECT DISTINCT k.tenant_id, k.key
FROM (SELECT s.tenant_id, s.concurrency_key AS key FROM nofx.step s WHERE s.ended_at IS NULL AND s.concurrency_key <> ''
      UNION ALL SELECT t.tenant_id, '' FROM nofx.tenant t WHERE t.max_steps IS NOT NULL) k
WHERE NOT EXISTS (SELECT 1 FROM nofx.concurrency c WHERE c.tenant_id = k.tenant_id AND c.key = k.key)
ORDER BY 1, 2
ON CONFLICT ON CONSTRAINT concurrency_pk DO NOTHING;

-- DropKeys forgets keys that no step needs any more.
-- name: DropKeys :execrows
DELETE FROM nofx.concurrency c
WHERE (c.tenant_id, c.key) IN (
  SELECT x.tenant_id, x.key FROM nofx.concurrency x
  WHERE x.key <> '' AND x.made_at < now() - interval '1 day'
    AND NOT EXISTS (SELECT 1 FROM nofx.step s WHERE s.tenant_id = x.tenant_id AND s.concurrency_key = x.key AND s.ended_at IS NULL)
  LIMIT @most FOR UPDATE SKIP LOCKED);

-- BoundedTenants may run only so many steps at once.
-- name: BoundedTenants :many
SELECT tenant_id FROM nofx.tenant WHERE max_steps IS NOT NULL ORDER BY tenant_id;
