-- Circuit breakers. A breaker's row changes by compare-and-set on its
-- generation, except for the claim's own step to half open, which holds the
-- row's lock. What attempts came to is added up elsewhere, in rows that one
-- worker's shard writes: nobody waits for a breaker.

-- Tally adds results up, sorted, so that two that write the same rows do not
-- wait for each other in a circle. A result under an older generation than the
-- row's is dropped, a newer one begins the row anew. What is older than two
-- spans falls out.
-- name: Tally :exec
INSERT INTO nofx.handler_tally AS t (tenant_id, lane, driver, shard, generation, span, good0, bad0, streak, streak_from, last_good, last_bad)
SELECT f.tenant_id, f.lane, f.driver, @shard, f.generation, floor(extract(epoch FROM n.now) * 1000 / f.span_ms)::bigint, f.good, f.bad, f.streak,
       CASE WHEN f.streak > 0 THEN n.now END, CASE WHEN f.good > 0 THEN n.now END, CASE WHEN f.bad > 0 THEN n.now END
FROM (SELECT unnest(@tenant_ids::text[]) AS tenant_id, unnest(@lanes::text[]) AS lane, unnest(@drivers::text[]) AS driver,
             unnest(@generations::bigint[]) AS generation, unnest(@spans_ms::bigint[]) AS span_ms, unnest(@goods::bigint[]) AS good,
             unnest(@bads::bigint[]) AS bad, unnest(@streaks::bigint[]) AS streak) f,
     (SELECT clock_timestamp() AS now) n
ORDER BY f.lane, f.driver
ON CONFLICT ON CONSTRAINT handler_tally_pk DO UPDATE
SET generation = excluded.generation,
    span = CASE WHEN t.generation = excluded.generation AND t.span - excluded.span = 1 THEN t.span ELSE excluded.span END,
    good0 = excluded.good0 + CASE WHEN t.generation = excluded.generation AND excluded.span - t.span IN (0, -1) THEN t.good0 ELSE 0 END,
    bad0 = excluded.bad0 + CASE WHEN t.generation = excluded.generation AND excluded.span - t.span IN (0, -1) THEN t.bad0 ELSE 0 END,
    good1 = CASE WHEN t.generation <> excluded.generation THEN 0 ELSE CASE excluded.span - t.span WHEN -1 THEN t.good1 WHEN 0 THEN t.good1 WHEN 1 THEN t.good0 ELSE 0 END END,
    bad1 = CASE WHEN t.generation <> excluded.generation THEN 0 ELSE CASE excluded.span - t.span WHEN -1 THEN t.bad1 WHEN 0 THEN t.bad1 WHEN 1 THEN t.bad0 ELSE 0 END END,
    good2 = CASE WHEN t.generation <> excluded.generation THEN 0 ELSE CASE excluded.span - t.span WHEN -1 THEN t.good2 WHEN 0 THEN t.good2 WHEN 1 THEN t.good1 WHEN 2 THEN t.good0 ELSE 0 END END,
    bad2 = CASE WHEN t.generation <> excluded.generation THEN 0 ELSE CASE excluded.span - t.span WHEN -1 THEN t.bad2 WHEN 0 THEN t.bad2 WHEN 1 THEN t.bad1 WHEN 2 THEN t.bad0 ELSE 0 END END,
    streak = excluded.streak + CASE WHEN t.generation = excluded.generation AND excluded.good0 = 0 THEN t.streak ELSE 0 END,
    streak_from = CASE WHEN t.generation = excluded.generation AND excluded.good0 = 0 AND t.streak > 0 THEN t.streak_from ELSE excluded.streak_from END,
    last_good = CASE WHEN t.generation = excluded.generation THEN coalesce(excluded.last_good, t.last_good) ELSE excluded.last_good END,
    last_bad = CASE WHEN t.generation = excluded.generation THEN coalesce(excluded.last_bad, t.last_bad) ELSE excluded.last_bad END
WHERE t.generation <= excluded.generation;

-- GetHealth is a breaker, and the time. One that has no row is as new.
-- name: GetHealth :one
SELECT clock_timestamp()::timestamptz AS now, coalesce(h.state, 'closed')::text AS state, coalesce(h.generation, 0)::bigint AS generation,
       coalesce(h.opens, 0)::int AS opens, coalesce(h.forced, false)::bool AS forced, h.ready_at, coalesce(h.probe_id, '')::text AS probe_id,
       coalesce(h.reason, '')::text AS reason
FROM (SELECT 1) one LEFT JOIN nofx.handler_health h ON h.lane = @lane AND h.driver = @driver;

-- FoldTally adds up the shards' results under one generation. A shard whose
-- streak began before another's last success has at least one failure after
-- it if its last is younger; how many nobody can say, so it counts as one.
-- name: FoldTally :one
WITH rows AS (
  SELECT t.*, floor(extract(epoch FROM clock_timestamp()) * 1000 / @span_ms::bigint)::bigint - t.span AS age
  FROM nofx.handler_tally t WHERE t.lane = @lane AND t.driver = @driver AND t.generation = @generation
), good AS (
  SELECT max(r.last_good) AS at FROM rows r
)
SELECT coalesce(sum(CASE WHEN r.age <= 0 THEN r.good0 + r.good1 + r.good2 WHEN r.age = 1 THEN r.good0 + r.good1 WHEN r.age = 2 THEN r.good0 ELSE 0 END), 0)::bigint AS good,
       coalesce(sum(CASE WHEN r.age <= 0 THEN r.bad0 + r.bad1 + r.bad2 WHEN r.age = 1 THEN r.bad0 + r.bad1 WHEN r.age = 2 THEN r.bad0 ELSE 0 END), 0)::bigint AS bad,
       coalesce(sum(CASE WHEN g.at IS NULL OR r.streak_from >= g.at THEN r.streak WHEN r.streak > 0 AND r.last_bad > g.at THEN 1 ELSE 0 END), 0)::bigint AS streak
FROM rows r, good g;

-- SetHealth changes a breaker that is still at a generation.
-- name: SetHealth :execrows
INSERT INTO nofx.handler_health AS h (tenant_id, lane, handler, driver, state, generation, opens, forced, ready_at, probe_id, probe_ms, reason)
VALUES (@tenant_id, @lane, @handler, @driver, @state, @generation, @opens, @forced, sqlc.narg('ready_at'), @probe_id, @probe_ms, @reason)
ON CONFLICT ON CONSTRAINT handler_health_pk DO UPDATE
SET state = excluded.state, generation = excluded.generation, opens = excluded.opens, forced = excluded.forced, ready_at = excluded.ready_at,
    probe_id = excluded.probe_id, probe_ms = excluded.probe_ms, reason = excluded.reason, changed_at = now()
WHERE h.generation = @from_generation;

-- name: InsertBreakerEvent :exec
INSERT INTO nofx.breaker_event (tenant_id, handler, driver, type, reason) VALUES (@tenant_id, @handler, @driver, @type, @reason);

-- ProbesOfClaim are the breakers that a claim has made half open.
-- name: ProbesOfClaim :many
SELECT h.tenant_id, h.handler, h.driver, h.reason FROM nofx.attempt a
JOIN nofx.handler_health h ON h.probe_id = a.id
WHERE a.id = ANY (@ids::text[]);

-- name: DropBreakerEvents :exec
DELETE FROM nofx.breaker_event WHERE created_at < now() - make_interval(secs => @keep_seconds::float8);

-- name: ListBreakerEvents :many
SELECT type, tenant_id, handler, driver, reason, created_at FROM nofx.breaker_event
WHERE tenant_id IN ('', @tenant_id)
ORDER BY id DESC
LIMIT @most;

-- ListHealth are the breakers that a tenant's steps meet, with the sums of
-- their results.
-- name: ListHealth :many
SELECT h.tenant_id, h.handler, h.driver, h.state, h.generation, h.opens, h.forced, h.ready_at, h.probe_id, h.reason, h.changed_at
FROM nofx.handler_health h
WHERE h.tenant_id IN ('', @tenant_id)
ORDER BY h.handler, h.driver, h.tenant_id;

-- Barring are all breakers that let nothing through now.
-- name: Barring :many
SELECT h.lane, h.driver, h.generation FROM nofx.handler_health h
WHERE h.state <> 'closed' AND (h.ready_at IS NULL OR h.ready_at > now())
ORDER BY h.lane, h.driver
LIMIT @most;

-- CountHealth is how many breakers are in each state.
-- name: CountHealth :many
SELECT state, count(*) AS n FROM nofx.handler_health GROUP BY state;

-- Barred are queued steps before a breaker that lets nothing through, that do
-- not wait there: they fail, or have another driver to go to whose breaker
-- lets them and that a worker has which may take them. One that has touched the outside, and must not do so twice, stays.
-- region is where that driver is: where the step is, if it can be.
-- The order is the index step_choosy's and no other's, so that this is what is
-- read.
-- name: Barred :many
WITH healthy AS (
  SELECT d ->> 'name' AS name, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d ->> 'region', ''), w.region) AS region
  FROM nofx.worker w, jsonb_array_elements(w.drivers::jsonb) d
  WHERE w.status = 'live' AND (d ->> 'healthy')::bool
)
SELECT s.id, s.run_id, s.driver, s.place, h.handler, h.reason, coalesce(n.place, 0)::int AS next,
       (CASE WHEN s.region = '' THEN '' ELSE coalesce((
         SELECT v.region FROM healthy v
         WHERE v.name = s.drivers[n.place] AND s.pin IN ('', v.worker_id) AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
           AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency))
         ORDER BY v.region <> s.region, array_position(CASE WHEN cardinality(s.regions) > 0 THEN s.regions ELSE t.residency END, v.region)
         LIMIT 1), s.region) END)::text AS region
FROM nofx.handler_health h
CROSS JOIN LATERAL (
  SELECT s.id, s.tenant_id, s.run_id, s.driver, s.place, s.drivers, s.lanes, s.on_open, s.pin, s.region, s.regions FROM nofx.step s
  WHERE s.lane = h.lane AND s.driver = h.driver AND s.status = 'queued' AND (s.on_open <> 'wait' OR cardinality(s.drivers) > 1)
    AND s.on_open = @on_open::text
    AND (s.on_open = 'fail' OR s.idempotent
         OR NOT EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.step_id = s.id AND a.generation = s.generation AND a.started_at IS NOT NULL))
  ORDER BY s.lane, s.driver, s.due_at, s.id
) s
CROSS JOIN LATERAL (SELECT x.residency FROM nofx.tenant x WHERE x.tenant_id = s.tenant_id LIMIT 1) t
LEFT JOIN LATERAL (
  SELECT min(i)::int AS place FROM generate_subscripts(s.drivers, 1) i
  WHERE i > s.place AND EXISTS (SELECT 1 FROM healthy v WHERE v.name = s.drivers[i] AND s.pin IN ('', v.worker_id)
    AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
    AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency))) AND NOT EXISTS (
    SELECT 1 FROM nofx.handler_health x
    WHERE x.lane = s.lanes[i] AND x.driver = s.drivers[i] AND x.state <> 'closed' AND (x.ready_at IS NULL OR x.ready_at > now()))
) n ON s.on_open = 'fallback'
WHERE h.state <> 'closed' AND (h.ready_at IS NULL OR h.ready_at > now()) AND (s.on_open = 'fail' OR n.place IS NOT NULL)
LIMIT @most;

-- Unserved are queued steps whose driver no worker that may take them has had
-- healthy for a while, in any region that they may be in, and one further down
-- their list is.
-- name: Unserved :many
WITH healthy AS (
  SELECT d ->> 'name' AS name, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d ->> 'region', ''), w.region) AS region
  FROM nofx.worker w, jsonb_array_elements(w.drivers::jsonb) d
  WHERE w.status = 'live' AND (d ->> 'healthy')::bool
), served AS MATERIALIZED ( -- a while ago, too: what has waited for its turn has not waited for a driver
  SELECT h.name, w.id AS worker_id, w.region AS host, coalesce(NULLIF(d.info ->> 'region', ''), w.region) AS region
  FROM nofx.driver_seen h
  JOIN nofx.worker w ON w.id = h.worker_id
  LEFT JOIN LATERAL (SELECT e AS info FROM jsonb_array_elements(w.drivers::jsonb) e WHERE e ->> 'name' = h.name LIMIT 1) d ON true
  WHERE h.healthy_at > now() - make_interval(secs => @wait_seconds::float8)
  UNION ALL SELECT * FROM healthy
)
SELECT s.id, s.run_id, s.driver, s.place, s.pin, n.place AS next,
       (CASE WHEN s.region = '' THEN '' ELSE coalesce((
         SELECT v.region FROM healthy v
         WHERE v.name = s.drivers[n.place] AND s.pin IN ('', v.worker_id) AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
           AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency))
         ORDER BY v.region <> s.region, array_position(CASE WHEN cardinality(s.regions) > 0 THEN s.regions ELSE t.residency END, v.region)
         LIMIT 1), s.region) END)::text AS region
FROM nofx.step s
CROSS JOIN LATERAL (SELECT x.residency FROM nofx.tenant x WHERE x.tenant_id = s.tenant_id LIMIT 1) t
CROSS JOIN LATERAL (
  SELECT min(i)::int AS place FROM generate_subscripts(s.drivers, 1) i
  WHERE i > s.place AND EXISTS (SELECT 1 FROM healthy v WHERE v.name = s.drivers[i] AND s.pin IN ('', v.worker_id)
    AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
    AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency)))
) n
WHERE s.status = 'queued' AND (s.on_open <> 'wait' OR cardinality(s.drivers) > 1) AND n.place IS NOT NULL
  AND s.due_at < now() - make_interval(secs => @wait_seconds::float8)
  AND NOT EXISTS (SELECT 1 FROM served v WHERE v.name = s.driver AND s.pin IN ('', v.worker_id)
    AND (cardinality(s.regions) = 0 OR v.region = ANY (s.regions))
    AND (cardinality(t.residency) = 0 OR v.region = ANY (t.residency) AND v.host = ANY (t.residency)))
  AND (s.idempotent OR NOT EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.step_id = s.id AND a.generation = s.generation AND a.started_at IS NOT NULL))
ORDER BY s.lane, s.driver, s.due_at, s.id
LIMIT @most;

-- MoveQueued gives queued steps to another of their drivers, in their run's
-- locked row.
-- name: MoveQueued :many
UPDATE nofx.step s SET driver = s.drivers[f.next], lane = s.lanes[f.next], place = f.next, moved = f.why, region = f.region, due_at = now()
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@places::int[]) AS place, unnest(@nexts::int[]) AS next, unnest(@whys::text[]) AS why,
             unnest(@regions::text[]) AS region) f
WHERE s.id = f.id AND s.place = f.place AND s.status || '' = 'queued'
RETURNING s.id, s.run_id, s.name, s.attempt, s.drivers[f.place]::text AS from, s.driver, s.region, s.pin;

-- MoveRetried gives steps whose attempt has ended to another of their drivers,
-- before they go back into the queue.
-- fence: step
-- name: MoveRetried :execrows
UPDATE nofx.step s SET driver = s.drivers[f.next], lane = s.lanes[f.next], place = f.next, moved = f.why
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@attempts::int[]) AS attempt,
             unnest(@epochs::bigint[]) AS epoch, unnest(@nexts::int[]) AS next, unnest(@whys::text[]) AS why) f
WHERE s.id = f.id AND s.generation = f.generation AND s.attempt = f.attempt AND s.epoch = f.epoch AND s.status = 'running';

-- name: GatesOfHandler :many
SELECT lane, driver FROM nofx.handler_health WHERE handler = @handler ORDER BY lane, driver;

-- name: TenantKnown :one
SELECT EXISTS (SELECT 1 FROM nofx.tenant WHERE tenant_id = @tenant_id);
