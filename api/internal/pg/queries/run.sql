-- name: TenantExists :one
SELECT EXISTS (SELECT 1 FROM nofx.tenant);

-- NewProjects are those that are not there.
-- name: NewProjects :many
SELECT p.id::text AS id FROM (SELECT unnest(@ids::text[]) AS id) p
WHERE NOT EXISTS (SELECT 1 FROM nofx.project x WHERE x.tenant_id = @tenant_id AND x.id = p.id)
ORDER BY p.id;

-- LockProjects lets only one transaction at a time make projects of a tenant.
-- name: LockProjects :exec
SELECT pg_advisory_xact_lock(hashtextextended(@tenant_id::text, 7318));

-- CountProjects is how many a tenant has, counted to most.
-- name: CountProjects :one
SELECT count(*) FROM (SELECT 1 FROM nofx.project p WHERE p.tenant_id = @tenant_id LIMIT @most) c;

-- EnsureProjects makes those that are not there, in their order, so that two
-- that make the same ones do not wait for each other in a circle.
-- name: EnsureProjects :exec
INSERT INTO nofx.project (tenant_id, id)
SELECT @tenant_id, p.id FROM (SELECT unnest(@ids::text[]) AS id) p
WHERE NOT EXISTS (SELECT 1 FROM nofx.project x WHERE x.tenant_id = @tenant_id AND x.id = p.id)
ORDER BY p.id
ON CONFLICT ON CONSTRAINT project_pk DO NOTHING;

-- InsertRuns stores runs of one tenant.
-- name: InsertRuns :exec
INSERT INTO nofx.run (id, tenant_id, project_id, goal, status, region, correlation_id, steps_left, steps_failed, steps_cancelled, next_seq, retry_budget,
                      rank, hold, start_at, concurrency_key, concurrency_most, ended_at)
SELECT r.id, @tenant_id, r.project_id, r.goal, r.status, @region, r.correlation_id, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.retry_budget,
       r.rank, r.hold, coalesce(NULLIF(r.start_at, '')::timestamptz, now() + make_interval(secs => r.delay_seconds)), r.concurrency_key, r.concurrency_most,
       CASE WHEN r.steps_left = 0 THEN now() END
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@project_ids::text[]) AS project_id, unnest(@goals::text[]) AS goal, unnest(@statuses::text[]) AS status,
             unnest(@correlation_ids::text[]) AS correlation_id, unnest(@steps_left::int[]) AS steps_left, unnest(@steps_failed::int[]) AS steps_failed,
             unnest(@steps_cancelled::int[]) AS steps_cancelled, unnest(@next_seqs::bigint[]) AS next_seq, unnest(@retry_budgets::int[]) AS retry_budget,
             unnest(@ranks::smallint[]) AS rank, unnest(@holds::text[]) AS hold, unnest(@start_ats::text[]) AS start_at, unnest(@delays_seconds::float8[]) AS delay_seconds,
             unnest(@concurrency_keys::text[]) AS concurrency_key, unnest(@concurrency_mosts::int[]) AS concurrency_most) r;

-- Names hold no line break, so one separates them. sealeds may be shorter than
-- the others: what it does not reach is NULL.
-- name: InsertSteps :exec
INSERT INTO nofx.step (id, tenant_id, run_id, idx, name, tool, driver, status, deps_left, depends_on, dependants, shares,
                       inputs, command, reads, shown, resources, image, workspace, network, network_allow, on_output, timeout_ms, grace_ms,
                       artifacts, idempotent, tries, backoff_ms, retry, spec, idempotency_key, verdict, ended_at, lane, drivers, lanes, on_open,
                       rank, concurrency_key, concurrency_most, region, regions, sealed)
SELECT s.id, @tenant_id, s.run_id, s.idx, s.name, s.tool, s.driver, s.status, s.deps_left,
       string_to_array(s.depends_on, E'\n'), string_to_array(s.dependants, E'\n'), s.shares,
       s.inputs::json, s.command::json, s.reads, s.shown, s.resources::json, s.image, s.workspace, s.network, string_to_array(s.network_allow, E'\n'), s.on_output, s.timeout_ms, s.grace_ms,
       string_to_array(s.artifacts, E'\n'), s.idempotent, s.tries, s.backoff_ms, s.retry::json, s.spec::json, s.idempotency_key,
       NULLIF(s.verdict, '')::json, CASE WHEN s.verdict <> '' THEN now() END,
       s.lane, string_to_array(s.drivers_listed, chr(31)), string_to_array(s.lanes_listed, chr(31)), s.on_open,
       s.rank, s.concurrency_key, s.concurrency_most, s.region, string_to_array(s.regions, E'\n'), s.sealed
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@run_ids::text[]) AS run_id, unnest(@idxs::int[]) AS idx, unnest(@names::text[]) AS name,
             unnest(@tools::text[]) AS tool, unnest(@drivers::text[]) AS driver, unnest(@statuses::text[]) AS status,
             unnest(@deps_left::int[]) AS deps_left, unnest(@depends_on::text[]) AS depends_on,
             unnest(@dependants::text[]) AS dependants, unnest(@shares::bool[]) AS shares,
             unnest(@inputs::text[]) AS inputs, unnest(@commands::text[]) AS command, unnest(@reads::text[]) AS reads,
             unnest(@shown::text[]) AS shown, unnest(@resources::text[]) AS resources,
             unnest(@images::text[]) AS image, unnest(@workspaces::text[]) AS workspace, unnest(@networks::text[]) AS network,
             unnest(@networks_allow::text[]) AS network_allow,
             unnest(@on_outputs::text[]) AS on_output, unnest(@timeouts_ms::bigint[]) AS timeout_ms,
             unnest(@graces_ms::bigint[]) AS grace_ms, unnest(@artifacts::text[]) AS artifacts,
             unnest(@idempotents::bool[]) AS idempotent, unnest(@tries::int[]) AS tries,
             unnest(@backoffs_ms::bigint[]) AS backoff_ms, unnest(@retries::text[]) AS retry,
             unnest(@specs::text[]) AS spec, unnest(@idempotency_keys::text[]) AS idempotency_key,
             unnest(@verdicts::text[]) AS verdict, unnest(@lanes::text[]) AS lane, unnest(@drivers_listed::text[]) AS drivers_listed,
             unnest(@lanes_listed::text[]) AS lanes_listed, unnest(@on_opens::text[]) AS on_open,
             unnest(@ranks::smallint[]) AS rank, unnest(@concurrency_keys::text[]) AS concurrency_key,
             unnest(@concurrency_mosts::int[]) AS concurrency_most,
             unnest(@regions::text[]) AS region, unnest(@regions_listed::text[]) AS regions,
             unnest(@sealeds::bytea[]) AS sealed) s;

-- name: ListRuns :many
SELECT id, project_id, goal, status, created_at, ended_at FROM nofx.run
WHERE tenant_id = @tenant_id AND (created_at, id) < (@before_at::timestamptz, @before_id::text)
ORDER BY created_at DESC, id DESC
LIMIT @most;

-- name: GetRun :one
SELECT id, project_id, goal, status, created_at, ended_at, region, correlation_id, next_seq, hold, start_at, concurrency_key, concurrency_most, rank, layers FROM nofx.run
WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListSteps :many
SELECT s.id, s.name, s.tool, s.driver, s.status, s.generation, s.attempt, s.depends_on, s.inputs, s.outputs, s.verdict,
       s.idempotency_key, s.created_at, s.ended_at, s.pin, s.drivers, s.moved, s.on_open, s.parked, s.concurrency_key, s.concurrency_most, s.deps_left, s.rank, s.region, s.regions, s.resources, s.timeout_ms, t.residency,
       h.state AS breaker, h.reason AS breaker_reason, h.ready_at, s.shares, s.due_at, (s.due_at > now())::bool AS later, s.network, s.artifacts,
       (CASE WHEN s.status = 'queued' THEN coalesce(s.command ->> 'isolation', '') ELSE '' END)::text AS isolation,
       (s.status = 'queued' AND (s.command -> 'files') IS NOT NULL)::bool AS files,
       (SELECT a.started_at FROM nofx.attempt a
        WHERE a.step_id = s.id AND a.generation = s.generation AND a.number = s.attempt AND a.status <> 'released') AS started_at,
       coalesce((SELECT a.region FROM nofx.attempt a
        WHERE a.step_id = s.id AND a.generation = s.generation AND a.number = s.attempt AND a.status <> 'released'), '')::text AS ran_in
FROM nofx.step s
JOIN nofx.tenant t ON t.tenant_id = s.tenant_id
LEFT JOIN nofx.handler_health h ON s.status = 'queued' AND h.lane = s.lane AND h.driver = s.driver
  AND h.state <> 'closed' AND (h.ready_at IS NULL OR h.ready_at > now())
WHERE s.tenant_id = @tenant_id AND s.run_id = @run_id
ORDER BY s.idx;

-- An artifact of a later attempt replaces that of an earlier one.
-- name: ListArtifacts :many
SELECT DISTINCT ON (s.idx, f.name) f.run_id, f.step_id, s.name AS step_name, f.name, f.sha256, f.size, f.created_at, f.removed_at
FROM nofx.artifact f
JOIN nofx.step s ON s.id = f.step_id
JOIN nofx.attempt a ON a.id = f.attempt_id
WHERE f.tenant_id = @tenant_id AND f.run_id = @run_id
ORDER BY s.idx, f.name, a.generation DESC, a.number DESC;

-- name: FindArtifact :one
SELECT f.sha256, f.size, f.created_at, f.removed_at
FROM nofx.artifact f
JOIN nofx.attempt a ON a.id = f.attempt_id
WHERE f.tenant_id = @tenant_id AND f.run_id = @run_id AND f.step_id = @step_id AND f.name = @name
ORDER BY a.generation DESC, a.number DESC
LIMIT 1;

-- name: NewestAttempt :one
SELECT s.name AS step_name, coalesce(a.id, '')::text AS id, coalesce(a.number, 0)::int AS number, coalesce(a.epoch, 0)::bigint AS epoch,
       coalesce(a.output_bytes, 0)::bigint AS output_bytes,
       (CASE WHEN a.id IS NULL THEN s.ended_at IS NOT NULL ELSE a.ended_at IS NOT NULL END)::bool AS ended
FROM nofx.step s
LEFT JOIN nofx.attempt a ON a.step_id = s.id AND a.generation = s.generation AND a.number = s.attempt AND a.status <> 'released'
WHERE s.tenant_id = @tenant_id AND s.run_id = @run_id AND s.id = @step_id;

-- OutputFrom lists the stored pieces that hold output from offset @start on.
-- name: OutputFrom :many
SELECT o.start, o.length, o.frames, o.blob_start, o.blob_length
FROM nofx.output_index o
WHERE o.attempt_id = @attempt_id AND o.tenant_id = @tenant_id
  AND o.start >= coalesce((SELECT max(p.start) FROM nofx.output_index p WHERE p.attempt_id = @attempt_id AND p.start <= @start), 0)
ORDER BY o.start
LIMIT @most;

-- name: LockRun :one
SELECT id, tenant_id, status, pin, steps_left, steps_failed, steps_cancelled, next_seq, cancel_at, started_at, retry_budget, retries, layers FROM nofx.run
WHERE tenant_id = @tenant_id AND id = @id
FOR NO KEY UPDATE;

-- name: NoteCancel :exec
UPDATE nofx.run SET cancel_at = coalesce(cancel_at, now()), cancel_reason = @reason
WHERE tenant_id = @tenant_id AND id = @id AND ended_at IS NULL;

-- CancelOpenSteps ends what does not run, with one verdict or, between two tries,
-- another.
-- name: CancelOpenSteps :many
UPDATE nofx.step SET status = 'cancelled', ended_at = now(), verdict = CASE WHEN attempt > 0 THEN @between::json ELSE @verdict::json END
WHERE tenant_id = @tenant_id AND run_id = @run_id AND status IN ('waiting', 'queued')
RETURNING id, name, idx, attempt;

-- name: CancelAttempts :many
UPDATE nofx.attempt a SET cancel_at = now(), cancel_reason = @reason
WHERE a.tenant_id = @tenant_id AND a.status = 'running' AND a.cancel_at IS NULL
  AND a.step_id IN (SELECT s.id FROM nofx.step s WHERE s.run_id = @run_id AND s.status = 'running')
RETURNING a.worker_id;

-- name: ListWorkers :many
SELECT id, name, status, region, version, incarnation, slots, held, last_seen, drivers FROM nofx.worker
WHERE tenant_id = @tenant_id
ORDER BY name;

-- name: InsertAudit :exec
INSERT INTO nofx.audit_log (tenant_id, principal, action, target, outcome, request_id, detail)
VALUES (@tenant_id, @principal, @action, @target, @outcome, @request_id, @detail);

-- name: InsertAudits :exec
INSERT INTO nofx.audit_log (tenant_id, principal, action, target, outcome, request_id, detail)
SELECT @tenant_id, a.principal, a.action, a.target, a.outcome, a.request_id, NULLIF(a.detail, '')::json
FROM (SELECT unnest(@principals::text[]) AS principal, unnest(@actions::text[]) AS action, unnest(@targets::text[]) AS target,
             unnest(@outcomes::text[]) AS outcome, unnest(@request_ids::text[]) AS request_id, unnest(@details::text[]) AS detail) a;
