-- What has ended is removed when its tenant's time for it is over. A run that
-- is marked is gone for its tenant; its rows go in slices after that, by
-- whoever comes. A time of 0 seconds is for ever.

-- TryRetention makes its caller the only one that removes until the end of the
-- transaction.
-- name: TryRetention :one
SELECT pg_try_advisory_xact_lock(7316);

-- MarkDue marks runs whose time is over. One with an entry in the DLQ that is
-- open stays, and is looked at again after a day. One that somebody is changing
-- at this moment is left for the next time.
-- name: MarkDue :execrows
WITH due AS (
  SELECT r.id, t.keep, EXISTS (SELECT 1 FROM nofx.step_dlq d WHERE d.run_id = r.id AND d.state = 'open') AS held
  FROM (SELECT x.tenant_id, make_interval(secs => coalesce(x.keep_runs_seconds, @keep_seconds::bigint)::float8) AS keep
        FROM nofx.tenant x WHERE coalesce(x.keep_runs_seconds, @keep_seconds::bigint) > 0) t
  CROSS JOIN LATERAL (
    SELECT x.id FROM nofx.run x
    WHERE x.tenant_id = t.tenant_id AND x.ended_at IS NOT NULL AND x.removing_at IS NULL AND greatest(x.ended_at, x.kept_from) < now() - t.keep
    ORDER BY greatest(x.ended_at, x.kept_from)
    LIMIT @most::int
    FOR UPDATE SKIP LOCKED
  ) r
  LIMIT @most::int
)
UPDATE nofx.run r
SET removing_at = CASE WHEN d.held THEN NULL ELSE now() END,
    kept_from = CASE WHEN d.held THEN now() + interval '1 day' - d.keep ELSE r.kept_from END
FROM due d
WHERE r.id = d.id AND r.id = ANY (ARRAY (SELECT i.id FROM due i));

-- LockMarked locks some of the marked runs. events is about how many each has.
-- name: LockMarked :many
SELECT r.id, r.next_seq AS events FROM nofx.run r
WHERE r.removing_at IS NOT NULL
ORDER BY r.id
LIMIT @most
FOR UPDATE SKIP LOCKED;

-- DropOutput removes some of the output of marked runs.
-- name: DropOutput :execrows
DELETE FROM nofx.output_index
WHERE ctid = ANY (ARRAY (SELECT o.ctid FROM nofx.step s
                         JOIN nofx.attempt a ON a.step_id = s.id
                         JOIN nofx.output_index o ON o.attempt_id = a.id
                         WHERE s.run_id = ANY (@run_ids::text[])
                         LIMIT @most::int));

-- DropEvents removes some of the events of marked runs.
-- name: DropEvents :execrows
DELETE FROM nofx.event
WHERE ctid = ANY (ARRAY (SELECT e.ctid FROM nofx.event e WHERE e.run_id = ANY (@run_ids::text[]) LIMIT @most::int));

-- KeepUsage adds what the attempts of marked runs used to their days.
-- name: KeepUsage :exec
INSERT INTO nofx.usage_day AS u (tenant_id, day, tool, driver, attempts, lost, wall_ms, cpu_usec, memory_peak_bytes,
                                 io_read_bytes, io_write_bytes, net_rx_bytes, net_tx_bytes, output_bytes)
SELECT a.tenant_id, (a.ended_at AT TIME ZONE 'UTC')::date, s.tool, coalesce(NULLIF(a.driver, ''), s.driver), count(*), count(*) FILTER (WHERE a.status = 'lost'),
       coalesce(sum((a.verdict -> 'usage' ->> 'wall_ms')::bigint), 0), coalesce(sum((a.verdict -> 'usage' ->> 'cpu_usec')::bigint), 0),
       coalesce(max((a.verdict -> 'usage' ->> 'memory_peak_bytes')::bigint), 0),
       coalesce(sum((a.verdict -> 'usage' ->> 'io_read_bytes')::bigint), 0), coalesce(sum((a.verdict -> 'usage' ->> 'io_write_bytes')::bigint), 0),
       coalesce(sum((a.verdict -> 'usage' ->> 'net_rx_bytes')::bigint), 0), coalesce(sum((a.verdict -> 'usage' ->> 'net_tx_bytes')::bigint), 0),
       coalesce(sum((a.verdict -> 'usage' ->> 'output_bytes')::bigint), 0)
FROM nofx.step s JOIN nofx.attempt a ON a.step_id = s.id
WHERE s.run_id = ANY (@run_ids::text[]) AND a.ended_at IS NOT NULL AND a.status <> 'released'
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
ON CONFLICT ON CONSTRAINT usage_day_pk DO UPDATE
SET attempts = u.attempts + excluded.attempts, lost = u.lost + excluded.lost, wall_ms = u.wall_ms + excluded.wall_ms, cpu_usec = u.cpu_usec + excluded.cpu_usec,
    memory_peak_bytes = greatest(u.memory_peak_bytes, excluded.memory_peak_bytes),
    io_read_bytes = u.io_read_bytes + excluded.io_read_bytes, io_write_bytes = u.io_write_bytes + excluded.io_write_bytes,
    net_rx_bytes = u.net_rx_bytes + excluded.net_rx_bytes, net_tx_bytes = u.net_tx_bytes + excluded.net_tx_bytes,
    output_bytes = u.output_bytes + excluded.output_bytes;

-- name: DropArtifactRows :execrows
DELETE FROM nofx.artifact WHERE run_id = ANY (@run_ids::text[]);

-- name: DropDead :execrows
DELETE FROM nofx.step_dlq d WHERE d.step_id = ANY (ARRAY (SELECT s.id FROM nofx.step s WHERE s.run_id = ANY (@run_ids::text[])));

-- name: DropAttempts :execrows
DELETE FROM nofx.attempt a WHERE a.step_id = ANY (ARRAY (SELECT s.id FROM nofx.step s WHERE s.run_id = ANY (@run_ids::text[])));

-- name: DropSteps :execrows
DELETE FROM nofx.step WHERE run_id = ANY (@run_ids::text[]);

-- name: DropLog :execrows
DELETE FROM nofx.event_log WHERE run_id = ANY (@run_ids::text[]);

-- name: DropRuns :execrows
DELETE FROM nofx.run WHERE id = ANY (@run_ids::text[]) AND removing_at IS NOT NULL;

-- EndArtifacts ends artifacts whose own time is over, of runs that have ended;
-- their rows stay. Their bytes are nobody's after that.
-- name: EndArtifacts :execrows
UPDATE nofx.artifact f SET removed_at = now()
WHERE f.ctid = ANY (ARRAY (
  SELECT g.ctid
  FROM (SELECT x.tenant_id, make_interval(secs => coalesce(x.keep_artifacts_seconds, @keep_seconds::bigint)::float8) AS keep
        FROM nofx.tenant x WHERE coalesce(x.keep_artifacts_seconds, @keep_seconds::bigint) > 0) t
  CROSS JOIN LATERAL (
    SELECT x.ctid FROM nofx.artifact x JOIN nofx.run r ON r.id = x.run_id
    WHERE x.tenant_id = t.tenant_id AND x.removed_at IS NULL AND x.created_at < now() - t.keep AND r.ended_at IS NOT NULL
    ORDER BY x.created_at
    LIMIT @most::int
  ) g
  LIMIT @most::int
)) AND f.removed_at IS NULL;

-- DropOldUsage forgets what was used long ago.
-- name: DropOldUsage :execrows
WITH months AS (
  DELETE FROM nofx.month_usage WHERE month < (now() AT TIME ZONE 'UTC')::date - @keep_days::int
)
DELETE FROM nofx.usage_day WHERE day < (now() AT TIME ZONE 'UTC')::date - @keep_days::int;

-- RetentionLag is for how long the run has been due that is the longest.
-- name: RetentionLag :one
SELECT coalesce(max(extract(epoch FROM now() - d.due)), 0)::float8 AS seconds
FROM (SELECT x.tenant_id, make_interval(secs => coalesce(x.keep_runs_seconds, @keep_seconds::bigint)::float8) AS keep
      FROM nofx.tenant x WHERE coalesce(x.keep_runs_seconds, @keep_seconds::bigint) > 0) t
CROSS JOIN LATERAL (
  SELECT greatest(r.ended_at, r.kept_from) + t.keep AS due FROM nofx.run r
  WHERE r.tenant_id = t.tenant_id AND r.ended_at IS NOT NULL AND r.removing_at IS NULL AND greatest(r.ended_at, r.kept_from) < now() - t.keep
  ORDER BY greatest(r.ended_at, r.kept_from) LIMIT 1
) d;

-- PreviewRuns is what would be removed now of each tenant, counted to a bound,
-- and what stays though its time is over.
-- name: PreviewRuns :many
SELECT t.tenant_id, extract(epoch FROM t.keep)::bigint AS keep_seconds, d.runs, d.held, d.steps, d.oldest
FROM (SELECT x.tenant_id, make_interval(secs => coalesce(x.keep_runs_seconds, @keep_seconds::bigint)::float8) AS keep
      FROM nofx.tenant x WHERE coalesce(x.keep_runs_seconds, @keep_seconds::bigint) > 0) t
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE NOT y.held) AS runs, count(*) FILTER (WHERE y.held) AS held,
         coalesce(sum(y.steps) FILTER (WHERE NOT y.held), 0)::bigint AS steps, min(y.ended_at)::timestamptz AS oldest
  FROM (SELECT r.ended_at, EXISTS (SELECT 1 FROM nofx.step_dlq d WHERE d.run_id = r.id AND d.state = 'open') AS held,
               (SELECT count(*) FROM nofx.step s WHERE s.run_id = r.id) AS steps
        FROM nofx.run r
        WHERE r.tenant_id = t.tenant_id AND r.ended_at < now() - t.keep AND r.removing_at IS NULL
        LIMIT @most::int) y
) d
WHERE d.runs > 0 OR d.held > 0
ORDER BY t.tenant_id;

-- PreviewArtifacts is the same for artifacts whose own time is over.
-- name: PreviewArtifacts :many
SELECT t.tenant_id, extract(epoch FROM t.keep)::bigint AS keep_seconds, d.artifacts, d.bytes
FROM (SELECT x.tenant_id, make_interval(secs => coalesce(x.keep_artifacts_seconds, @keep_seconds::bigint)::float8) AS keep
      FROM nofx.tenant x WHERE coalesce(x.keep_artifacts_seconds, @keep_seconds::bigint) > 0) t
CROSS JOIN LATERAL (
  SELECT count(*) AS artifacts, coalesce(sum(y.size), 0)::bigint AS bytes
  FROM (SELECT x.size FROM nofx.artifact x JOIN nofx.run r ON r.id = x.run_id
        WHERE x.tenant_id = t.tenant_id AND x.removed_at IS NULL AND x.created_at < now() - t.keep AND r.ended_at IS NOT NULL
        LIMIT @most::int) y
) d
WHERE d.artifacts > 0
ORDER BY t.tenant_id;

-- KnownBlobs are those of the given artifacts' and layers' bytes that something
-- refers to.
-- name: KnownBlobs :many
SELECT i.sum::text FROM unnest(@sums::text[]) AS i(sum)
WHERE EXISTS (SELECT 1 FROM nofx.artifact f WHERE f.tenant_id = @tenant_id AND f.sha256 = i.sum AND f.removed_at IS NULL)
   OR EXISTS (SELECT 1 FROM nofx.workspace_layer l WHERE l.tenant_id = @tenant_id AND l.sha256 = i.sum AND l.removed_at IS NULL);

-- KnownAttempts are those of the given attempts that are there.
-- name: KnownAttempts :many
SELECT a.id FROM nofx.attempt a WHERE a.id = ANY (@ids::text[]) AND a.tenant_id = @tenant_id;

-- MayCollect tells whether anything may be called nobody's now: not in the
-- lease after an outage, since workers may have things to say of it.
-- name: MayCollect :one
SELECT (c.hold_until <= now())::bool AS may, i.id AS installation FROM nofx.lease_clock c, nofx.installation i;

-- SetTenantRetention says how long a tenant's runs and artifacts are kept; NULL
-- = as the API is configured.
-- name: SetTenantRetention :execrows
UPDATE nofx.tenant
SET keep_runs_seconds = CASE WHEN @set_runs::bool THEN sqlc.narg(keep_runs_seconds) ELSE keep_runs_seconds END,
    keep_artifacts_seconds = CASE WHEN @set_artifacts::bool THEN sqlc.narg(keep_artifacts_seconds) ELSE keep_artifacts_seconds END
WHERE tenant_id = @tenant_id;
