-- Where steps are. A step has a region, in which it is placed, or none for
-- anywhere, and an order of those that it may be in: its own, or, when it names
-- none, its tenant's residency. A worker serves a region with a driver when the
-- driver is there; a tenant with a residency is served by a worker only when
-- both that and the driver are in it. The claim holds to that by itself; what is
-- here finds better places, or says that there is none.
--
-- Each of these goes through the places in the queue and, where all is well, not
-- through the steps, of which there may be many more: the inner LIMIT keeps
-- Postgres from beginning with those.

-- Displaced lists queued steps whose driver nobody that may take them has had
-- healthy in their region for a while, and one of their other regions has.
-- name: Displaced :many
WITH RECURSIVE places AS (
  (SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s WHERE s.status = 'queued'
   ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1)
  UNION ALL
  SELECT n.tenant_id, n.parked, n.pin, n.driver, n.region FROM places p
  CROSS JOIN LATERAL (
    SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s
    WHERE s.status = 'queued' AND (s.tenant_id, s.parked, s.pin, s.driver, s.region) > (p.tenant_id, p.parked, p.pin, p.driver, p.region)
    ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1) n
), served AS MATERIALIZED (
  SELECT h.name AS driver, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d.info ->> 'region', ''), w.region) AS region,
         (w.status = 'live' AND coalesce((d.info ->> 'healthy')::bool, false)) AS healthy
  FROM nofx.driver_seen h
  JOIN nofx.worker w ON w.id = h.worker_id
  LEFT JOIN LATERAL (SELECT e AS info FROM jsonb_array_elements(w.drivers::jsonb) e WHERE e ->> 'name' = h.name LIMIT 1) d ON true
  WHERE h.healthy_at > now() - make_interval(secs => @wait_seconds::float8)
), empty AS (
  SELECT p.*, t.residency FROM places p
  CROSS JOIN LATERAL (SELECT x.residency FROM nofx.tenant x WHERE x.tenant_id = p.tenant_id LIMIT 1) t
  WHERE p.region <> '' AND (SELECT c.hold_until FROM nofx.lease_clock c) < now() - make_interval(secs => @wait_seconds::float8)
    AND NOT EXISTS (SELECT 1 FROM served v WHERE v.driver = p.driver AND p.pin IN ('', v.worker_id) AND v.region = p.region
      AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency)))
    AND EXISTS (SELECT 1 FROM served v WHERE v.driver = p.driver AND p.pin IN ('', v.worker_id) AND v.healthy)
)
SELECT s.id, s.run_id, s.shares, p.pin, p.driver, p.region AS from_region,
       (CASE WHEN cardinality(s.regions) = 0 AND cardinality(p.residency) = 0 THEN '' ELSE s.next END)::text AS to_region
FROM empty p
CROSS JOIN LATERAL (
  SELECT s.id, s.run_id, s.shares, s.regions, n.region AS next FROM nofx.step s
  CROSS JOIN LATERAL (
    SELECT v.region FROM served v
    WHERE v.healthy AND v.driver = p.driver AND p.pin IN ('', v.worker_id)
      AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
      AND (cardinality(p.residency) = 0 OR v.region = ANY (p.residency) AND v.host = ANY (p.residency))
    ORDER BY array_position(CASE WHEN cardinality(s.regions) > 0 THEN s.regions ELSE p.residency END, v.region)
    LIMIT 1
  ) n
  WHERE s.status = 'queued' AND s.tenant_id = p.tenant_id AND s.parked = p.parked AND s.pin = p.pin AND s.driver = p.driver AND s.region = p.region
  LIMIT @most
) s
LIMIT @most;

-- Outside lists queued steps that are where their tenant's residency does not
-- let them be: those that have nowhere to go, or the others, with the first region of theirs that it allows and that serves
-- them, or else that it allows, or with none where there is no such region. host
-- is the region of the worker that has the run's workspace, when that is what is
-- outside.
-- name: Outside :many
WITH RECURSIVE places AS (
  (SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s WHERE s.status = 'queued'
   ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1)
  UNION ALL
  SELECT n.tenant_id, n.parked, n.pin, n.driver, n.region FROM places p
  CROSS JOIN LATERAL (
    SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s
    WHERE s.status = 'queued' AND (s.tenant_id, s.parked, s.pin, s.driver, s.region) > (p.tenant_id, p.parked, p.pin, p.driver, p.region)
    ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1) n
), healthy AS MATERIALIZED (
  SELECT d ->> 'name' AS name, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d ->> 'region', ''), w.region) AS region
  FROM nofx.worker w, jsonb_array_elements(w.drivers::jsonb) d
  WHERE w.status = 'live' AND (d ->> 'healthy')::bool
), barred AS (
  SELECT p.*, t.residency, (CASE WHEN w.region <> ALL (t.residency) THEN w.region ELSE '' END)::text AS host
  FROM places p
  CROSS JOIN LATERAL (SELECT x.residency FROM nofx.tenant x WHERE x.tenant_id = p.tenant_id LIMIT 1) t
  LEFT JOIN nofx.worker w ON w.id = p.pin
  WHERE cardinality(t.residency) > 0 AND (p.region <> '' AND p.region <> ALL (t.residency) OR w.region <> ALL (t.residency))
)
SELECT s.id, s.run_id, s.shares, p.pin, p.driver, p.region AS from_region, p.host, s.regions, p.residency::text[] AS residency,
       (CASE WHEN p.host <> '' THEN '' ELSE coalesce(s.next, '') END)::text AS to_region
FROM barred p
CROSS JOIN LATERAL (
  SELECT s.id, s.run_id, s.shares, s.regions, n.region AS next FROM nofx.step s
  LEFT JOIN LATERAL (
    SELECT o.region FROM unnest(CASE WHEN cardinality(s.regions) > 0 THEN s.regions ELSE p.residency END) WITH ORDINALITY AS o(region, nth)
    WHERE o.region = ANY (p.residency)
    ORDER BY NOT EXISTS (SELECT 1 FROM healthy v WHERE v.name = p.driver AND p.pin IN ('', v.worker_id) AND v.region = o.region AND v.host = ANY (p.residency)), o.nth
    LIMIT 1
  ) n ON true
  WHERE s.status = 'queued' AND s.tenant_id = p.tenant_id AND s.parked = p.parked AND s.pin = p.pin AND s.driver = p.driver AND s.region = p.region
    AND (p.host <> '' OR n.region IS NULL) = @lost::bool
  LIMIT @most
) s
LIMIT @most;

-- Stranded lists queued steps that have been due for long and whose driver has
-- not been healthy since, on any worker that may take them, in any region that
-- they may be in. A pinned step whose worker is lost is not one of them: see
-- Orphaned.
-- name: Stranded :many
WITH RECURSIVE places AS (
  (SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s WHERE s.status = 'queued'
   ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1)
  UNION ALL
  SELECT n.tenant_id, n.parked, n.pin, n.driver, n.region FROM places p
  CROSS JOIN LATERAL (
    SELECT s.tenant_id, s.parked, s.pin, s.driver, s.region FROM nofx.step s
    WHERE s.status = 'queued' AND (s.tenant_id, s.parked, s.pin, s.driver, s.region) > (p.tenant_id, p.parked, p.pin, p.driver, p.region)
    ORDER BY s.tenant_id, s.parked, s.pin, s.driver, s.region LIMIT 1) n
), served AS MATERIALIZED (
  SELECT h.name AS driver, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d.info ->> 'region', ''), w.region) AS region
  FROM nofx.driver_seen h
  JOIN nofx.worker w ON w.id = h.worker_id
  LEFT JOIN LATERAL (SELECT e AS info FROM jsonb_array_elements(w.drivers::jsonb) e WHERE e ->> 'name' = h.name LIMIT 1) d ON true
  WHERE h.healthy_at > now() - make_interval(secs => @wait_seconds::float8)
), empty AS (
  SELECT p.*, t.residency FROM places p
  CROSS JOIN LATERAL (SELECT x.residency FROM nofx.tenant x WHERE x.tenant_id = p.tenant_id LIMIT 1) t
  WHERE (SELECT c.hold_until FROM nofx.lease_clock c) < now() - make_interval(secs => @wait_seconds::float8)
    AND (p.pin = '' OR p.pin IN (SELECT w.id FROM nofx.worker w WHERE w.status <> 'lost'))
    AND NOT EXISTS (SELECT 1 FROM served v WHERE v.driver = p.driver AND p.pin IN ('', v.worker_id) AND p.region IN ('', v.region)
      AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency)))
)
SELECT s.id, s.run_id, p.driver, p.pin, s.regions, p.residency::text[] AS residency
FROM empty p
CROSS JOIN LATERAL (
  SELECT s.id, s.run_id, s.regions FROM nofx.step s
  WHERE s.status = 'queued' AND s.tenant_id = p.tenant_id AND s.parked = p.parked AND s.pin = p.pin AND s.driver = p.driver AND s.region = p.region
    AND s.due_at < now() - make_interval(secs => @wait_seconds::float8)
    AND NOT EXISTS (SELECT 1 FROM served v WHERE v.driver = p.driver AND p.pin IN ('', v.worker_id)
      AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
      AND (cardinality(p.residency) = 0 OR v.region = ANY (p.residency) AND v.host = ANY (p.residency)))
  LIMIT @most
) s
LIMIT @most;

-- MoveRegions gives queued steps another region, in their run's locked row.
-- name: MoveRegions :many
UPDATE nofx.step s SET region = f.to_region
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@froms::text[]) AS from_region, unnest(@tos::text[]) AS to_region) f
WHERE s.id = f.id AND s.region = f.from_region AND s.status || '' = 'queued'
RETURNING s.id, s.run_id, s.name, s.attempt, s.status, f.from_region::text AS from_region, s.region, s.driver, s.pin;

-- MoveWorkspaces does so with the steps that are to share their run's workspace,
-- of which none is there yet: they stay together.
-- name: MoveWorkspaces :many
UPDATE nofx.step s SET region = f.to_region
FROM (SELECT unnest(@run_ids::text[]) AS run_id, unnest(@froms::text[]) AS from_region, unnest(@tos::text[]) AS to_region) f
WHERE s.run_id = f.run_id AND s.shares AND s.pin = '' AND s.region = f.from_region AND s.status IN ('waiting', 'queued')
  AND EXISTS (SELECT 1 FROM nofx.run r WHERE r.id = f.run_id AND r.pin = '')
RETURNING s.id, s.run_id, s.name, s.attempt, s.status, f.from_region::text AS from_region, s.region, s.driver, s.pin;

