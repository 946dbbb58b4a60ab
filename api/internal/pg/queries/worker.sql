-- RegisterWorker makes or renews the row of a worker. A name stays with its
-- key while its worker lives; no row comes back then.
-- name: RegisterWorker :one
INSERT INTO nofx.worker (id, tenant_id, key_id, name, incarnation, region, version, slots, drivers)
VALUES (@id, @tenant_id, @key_id, @name, @incarnation, @region, @version, @slots, @drivers)
ON CONFLICT ON CONSTRAINT worker_name_unique DO UPDATE
SET key_id = excluded.key_id, incarnation = excluded.incarnation, region = excluded.region, version = excluded.version,
    slots = excluded.slots, drivers = excluded.drivers, status = 'live', registered_at = now(), last_seen = now()
WHERE worker.key_id = excluded.key_id OR worker.status = 'lost'
RETURNING id;

-- name: Installation :one
SELECT id, timeline FROM nofx.installation;

-- FindWorker finds the worker that a request comes from.
-- name: FindWorker :one
SELECT id, name, status, region, drivers FROM nofx.worker WHERE id = @id AND incarnation = @incarnation AND key_id = @key_id;

-- SeeWorker notes what a worker says of itself, and gives what it said before.
-- name: SeeWorker :one
WITH before AS (
  SELECT b.id, b.status, b.drivers FROM nofx.worker b
  WHERE b.id = @id AND b.incarnation = @incarnation AND b.key_id = @key_id
  FOR UPDATE
)
UPDATE nofx.worker w
SET last_seen = now(), held = @held, drivers = @drivers, status = CASE WHEN @draining::bool THEN 'draining' ELSE 'live' END
FROM before
WHERE w.id = before.id
RETURNING w.tenant_id, before.status, before.drivers;

-- SeeIdle notes that workers are there which hold nothing and say of themselves
-- what they said before. Those of which anything else is known it leaves out, and
-- those that somebody is changing.
-- name: SeeIdle :many
WITH seen AS (
  SELECT w.id
  FROM (SELECT unnest(@ids::text[]) AS id, unnest(@incarnations::text[]) AS incarnation, unnest(@key_ids::text[]) AS key_id,
               unnest(@drivers::text[]) AS drivers, unnest(@statuses::text[]) AS status) f
  JOIN nofx.worker w ON w.id = f.id
  WHERE w.incarnation = f.incarnation AND w.key_id = f.key_id AND w.status = f.status AND w.held = 0 AND w.drivers::text = f.drivers
    AND NOT EXISTS (SELECT 1 FROM nofx.attempt a WHERE a.worker_id = w.id AND a.status = 'running')
  ORDER BY w.id
  FOR NO KEY UPDATE OF w SKIP LOCKED
)
UPDATE nofx.worker w SET last_seen = now() FROM seen WHERE w.id = seen.id
RETURNING w.id;

-- WorkerBefore is what a worker last said of its drivers.
-- name: WorkerBefore :one
SELECT drivers FROM nofx.worker WHERE tenant_id = @tenant_id AND name = @name FOR UPDATE;

-- name: InsertWorkerEvents :exec
INSERT INTO nofx.worker_event (tenant_id, worker_id, type, driver, message)
SELECT @tenant_id, @worker_id, e.type, e.driver, e.message
FROM (SELECT unnest(@types::text[]) AS type, unnest(@drivers::text[]) AS driver, unnest(@messages::text[]) AS message) e;

-- name: DropWorkerEvents :exec
DELETE FROM nofx.worker_event WHERE created_at < now() - make_interval(secs => @keep_seconds::float8);

-- name: ListWorkerEvents :many
SELECT e.type, e.worker_id, w.name, e.driver, e.message, e.created_at
FROM nofx.worker_event e JOIN nofx.worker w ON w.id = e.worker_id
WHERE e.tenant_id = @tenant_id
ORDER BY e.id DESC
LIMIT @most;

-- RenewLeases prolongs the leases that a worker lists. Each is found by its id,
-- in their order, as in LockAttempts: a join would compare all that the worker
-- runs with all that it lists.
-- fence: attempt
-- name: RenewLeases :many
UPDATE nofx.attempt a
SET lease_until = now() + make_interval(secs => @lease_seconds::float8), listed_at = now()
FROM (
  SELECT l.id
  FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
               unnest(@epochs::bigint[]) AS epoch ORDER BY 1) f
  CROSS JOIN LATERAL (
    SELECT l.id FROM nofx.attempt l
    WHERE l.id = f.id AND l.generation = f.generation AND l.number = f.number AND l.epoch = f.epoch
      AND l.worker_id || '' = @worker_id AND l.status || '' = 'running'
    LIMIT 1
    FOR NO KEY UPDATE
  ) l
) h
WHERE a.id = h.id AND a.worker_id || '' = @worker_id AND a.status || '' = 'running'
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = @worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id)
RETURNING a.id, a.cancel_at, a.cancel_reason, (SELECT s.grace_ms FROM nofx.step s WHERE s.id = a.step_id) AS grace_ms;

-- Holding looks at leases without renewing them: those that a worker lists,
-- and those to be cancelled that it claimed since it made the list.
-- name: Holding :many
SELECT a.id, a.cancel_at, a.cancel_reason, (SELECT s.grace_ms FROM nofx.step s WHERE s.id = a.step_id) AS grace_ms
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@numbers::int[]) AS number,
             unnest(@epochs::bigint[]) AS epoch) f
CROSS JOIN LATERAL (
  SELECT a.id, a.step_id, a.cancel_at, a.cancel_reason FROM nofx.attempt a
  WHERE a.id = f.id AND a.generation = f.generation AND a.number = f.number AND a.epoch = f.epoch
    AND a.worker_id || '' = @worker_id AND a.status || '' = 'running'
  LIMIT 1
) a
UNION ALL
SELECT a.id, a.cancel_at, a.cancel_reason, (SELECT s.grace_ms FROM nofx.step s WHERE s.id = a.step_id) AS grace_ms
FROM nofx.attempt a
WHERE a.worker_id = @worker_id AND a.status = 'running' AND a.cancel_at IS NOT NULL AND a.id <> ALL (@ids::text[]);

-- ForgetUnlisted ends the leases that a worker has not listed for a grace; the
-- reaper takes them from there. One that has just started anew may still ask for
-- those of its last claim.
-- name: ForgetUnlisted :exec
UPDATE nofx.attempt SET lease_until = now() - interval '1 millisecond'
WHERE worker_id = @worker_id AND status = 'running' AND id <> ALL (@held::text[])
  AND listed_at < now() - make_interval(secs => @grace_seconds::float8) AND lease_until > now()
  AND NOT EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = @worker_id AND w.registered_at > now() - make_interval(secs => @grace_seconds::float8));

-- EndedRuns are those of the given runs that have ended, are not there, or have
-- gone on elsewhere: their workspaces can go. A run that failed keeps its workspace for a while, so that
-- its steps can be tried again in it; of one worker's only the newest do. Once
-- a worker is told of such a run, the run has no workspace. One that somebody is
-- changing is told of the next time.
-- name: EndedRuns :many
WITH given AS (
  SELECT i.id, r.id AS known, r.status, r.pin, r.ended_at,
         row_number() OVER (PARTITION BY coalesce(r.status, '') ORDER BY r.ended_at DESC) AS place
  FROM unnest(@ids::text[]) AS i(id) LEFT JOIN nofx.run r ON r.id = i.id
), gone AS (
  UPDATE nofx.run r SET pin = ''
  WHERE r.id IN (SELECT x.id FROM nofx.run x
                 WHERE x.id IN (SELECT g.id FROM given g WHERE g.status = 'cancelled'
                                   OR g.status = 'failed' AND (g.place > @most::int OR g.ended_at < now() - make_interval(secs => @keep_seconds::float8)))
                   AND x.ended_at IS NOT NULL AND x.pin IN ('', @worker_id::text)
                 ORDER BY x.id FOR NO KEY UPDATE SKIP LOCKED)
  RETURNING r.id
)
SELECT g.id::text FROM gone g
UNION ALL
SELECT g.id::text FROM given g
WHERE g.known IS NULL OR g.status = 'succeeded' OR g.pin NOT IN ('', @worker_id);

-- Fleet are the workers that live or were seen not long ago.
-- name: Fleet :many
SELECT w.id, w.status, w.region, w.drivers, w.layers FROM nofx.worker w
WHERE w.status <> 'lost' OR w.last_seen > now() - make_interval(secs => @seconds::float8)
ORDER BY w.last_seen DESC
LIMIT 10000;
