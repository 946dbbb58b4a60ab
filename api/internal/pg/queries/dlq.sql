-- name: ListDead :many
SELECT d.id, d.run_id, d.step_id, d.step_name, d.generation, d.tool, d.driver, d.worker_id, d.cause, d.reason, d.attempts, d.state,
       d.created_at, d.resolved_at, d.resolved_by
FROM nofx.step_dlq d
WHERE d.tenant_id = @tenant_id AND d.id < @before::text
  AND (@state::text = '' OR d.state = @state) AND (@tool::text = '' OR d.tool = @tool) AND (@cause::text = '' OR d.cause = @cause)
  AND (@driver::text = '' OR d.driver = @driver) AND d.created_at >= @since::timestamptz
ORDER BY d.id DESC
LIMIT @most;

-- DeadDetails are entries with their history and inputs, which are those of
-- the step's row unless the entry has kept its own.
-- name: DeadDetails :many
SELECT d.id, d.history, coalesce(d.inputs, s.inputs)::json AS inputs
FROM nofx.step_dlq d
JOIN nofx.step s ON s.id = d.step_id
WHERE d.tenant_id = @tenant_id AND d.id = ANY (@ids::text[]);

-- name: GetDead :one
SELECT d.id, d.run_id, d.step_id, d.step_name, d.generation, d.tool, d.driver, d.worker_id, d.cause, d.reason, d.attempts, d.state,
       d.created_at, d.resolved_at, d.resolved_by
FROM nofx.step_dlq d
WHERE d.tenant_id = @tenant_id AND d.id = @id;

-- MatchDead finds open entries that match, from one on.
-- name: MatchDead :many
SELECT d.id FROM nofx.step_dlq d
WHERE d.tenant_id = @tenant_id AND d.state = 'open' AND d.id < @before::text
  AND (@tool::text = '' OR d.tool = @tool) AND (@cause::text = '' OR d.cause = @cause)
  AND (@driver::text = '' OR d.driver = @driver) AND d.created_at >= @since::timestamptz
ORDER BY d.id DESC
LIMIT @most;

-- DeadPlaces tells whose entries these are, and what it takes to render their
-- steps anew.
-- name: DeadPlaces :many
SELECT d.id, d.run_id, d.step_id, d.generation, s.spec, s.inputs, s.sealed
FROM nofx.step_dlq d
JOIN nofx.step s ON s.id = d.step_id
WHERE d.tenant_id = @tenant_id AND d.id = ANY (@ids::text[]);

-- LockDead locks entries, after the runs whose steps they are about.
-- name: LockDead :many
SELECT d.id, d.run_id, d.step_id, d.generation, d.state
FROM nofx.step_dlq d
WHERE d.tenant_id = @tenant_id AND d.id = ANY (@ids::text[])
ORDER BY d.id
FOR NO KEY UPDATE;

-- ResolveDead ends entries that are open.
-- name: ResolveDead :many
UPDATE nofx.step_dlq d SET state = @state, resolved_at = now(), resolved_by = @principal
WHERE d.tenant_id = @tenant_id AND d.id = ANY (@ids::text[]) AND d.state = 'open'
RETURNING d.id;

-- ResolveDeadOf ends the open entries of steps that are tried again, in their
-- runs' locked rows.
-- name: ResolveDeadOf :exec
UPDATE nofx.step_dlq d SET state = 'requeued', resolved_at = now(), resolved_by = @principal
WHERE d.tenant_id = @tenant_id AND d.step_id = ANY (@step_ids::text[]) AND d.state = 'open';

-- KeepInputs moves the inputs of a step that is about to get other ones into
-- the entries of its generations so far. What is sealed of them is sealed for the
-- step's row and comes back, to be sealed for each entry: see KeepSealed.
-- name: KeepInputs :many
UPDATE nofx.step_dlq d SET inputs = s.inputs
FROM nofx.step s
WHERE s.id = d.step_id AND d.tenant_id = @tenant_id AND d.step_id = @step_id AND d.inputs IS NULL
RETURNING d.id, s.sealed;

-- name: KeepSealed :exec
UPDATE nofx.step_dlq SET sealed = @sealed WHERE tenant_id = @tenant_id AND id = @id;

-- LockReopen locks runs that steps are to be reopened of. stale: their workers
-- were told, or may be at any time, that their workspaces can go.
-- name: LockReopen :many
SELECT r.id, r.tenant_id, r.status, r.pin, r.steps_left, r.steps_failed, r.steps_cancelled, r.next_seq, r.cancel_at, r.started_at, r.retry_budget, r.retries, r.layers,
       (r.ended_at IS NOT NULL AND (r.status <> 'failed' OR r.ended_at < now() - make_interval(secs => @keep_seconds::float8)))::bool AS stale,
       CASE WHEN r.ended_at IS NULL THEN r.hold
            WHEN r.concurrency_key <> '' OR (SELECT t.max_runs FROM nofx.tenant t WHERE t.tenant_id = r.tenant_id) IS NOT NULL THEN 'turn' ELSE '' END::text AS hold
FROM nofx.run r
WHERE r.tenant_id = @tenant_id AND r.id = ANY (@ids::text[])
ORDER BY r.id
FOR NO KEY UPDATE;

-- StepsOfRuns are the steps of runs whose rows are locked, each with the driver
-- that a new generation of it begins on.
-- name: StepsOfRuns :many
SELECT s.id, s.run_id, s.name, coalesce(s.drivers[1], s.driver)::text AS driver, s.status, s.generation, s.attempt, s.shares, s.depends_on, s.dependants, s.resources, s.regions, s.losses,
       coalesce(s.verdict ->> 'cause', '')::text AS cause, s.concurrency_key, s.saved, s.region AS placed
FROM nofx.step s
WHERE s.tenant_id = @tenant_id AND s.run_id = ANY (@run_ids::text[])
ORDER BY s.run_id, s.idx;

-- ReopenSteps begins a new generation of steps that have ended, in their runs'
-- locked rows, on the first of each one's drivers.
-- name: ReopenSteps :many
UPDATE nofx.step s
SET status = f.status, generation = s.generation + 1, attempt = 0, losses = 0, deps_left = f.deps_left, due_at = now(), pin = f.pin,
    ended_at = NULL, verdict = NULL, outputs = NULL, saved = false,
    driver = coalesce(s.drivers[1], s.driver), lane = coalesce(s.lanes[1], s.lane), place = 1, moved = '', parked = false, region = f.region
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@generations::int[]) AS generation, unnest(@statuses::text[]) AS status,
             unnest(@deps_left::int[]) AS deps_left, unnest(@pins::text[]) AS pin, unnest(@regions::text[]) AS region) f
WHERE s.tenant_id = @tenant_id AND s.id = ANY (@ids::text[]) AND s.id = f.id AND s.generation = f.generation AND s.ended_at IS NOT NULL
RETURNING s.id;

-- ReopenRuns opens runs again, in their locked rows. One that had ended and has
-- to wait for its turn comes after those that wait already.
-- name: ReopenRuns :execrows
UPDATE nofx.run r
SET status = CASE WHEN r.ended_at IS NULL THEN r.status WHEN f.hold = '' THEN 'running' ELSE 'queued' END, hold = f.hold, ended_at = NULL, cancel_at = NULL, cancel_reason = '',
    start_at = CASE WHEN r.ended_at IS NULL OR f.hold = '' THEN r.start_at ELSE now() END, steps_left = f.steps_left, steps_failed = f.steps_failed, steps_cancelled = f.steps_cancelled, pin = f.pin, retries = 0, reopened = r.reopened + 1
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@steps_left::int[]) AS steps_left, unnest(@steps_failed::int[]) AS steps_failed,
             unnest(@steps_cancelled::int[]) AS steps_cancelled, unnest(@pins::text[]) AS pin, unnest(@holds::text[]) AS hold) f
WHERE r.tenant_id = @tenant_id AND r.id = ANY (@ids::text[]) AND r.id = f.id;

-- EditStep gives a step that has ended another command, in its run's locked row.
-- name: EditStep :execrows
UPDATE nofx.step s
SET driver = @driver, lane = @lane, drivers = @drivers::text[], lanes = @lanes::text[], place = 1, moved = '', on_open = @on_open, regions = @regions::text[], shares = @shares, inputs = @inputs, command = @command, sealed = @sealed, reads = @reads, shown = @shown, resources = @resources, image = @image,
    workspace = @workspace, network = @network, network_allow = @network_allow::text[], on_output = @on_output, timeout_ms = @timeout_ms,
    artifacts = @artifacts::text[], idempotent = @idempotent, tries = @tries, backoff_ms = @backoff_ms, retry = @retry, spec = @spec,
    idempotency_key = CASE WHEN @idempotency_key::text = '' THEN s.idempotency_key ELSE @idempotency_key END
WHERE s.tenant_id = @tenant_id AND s.id = @id AND s.generation = @generation AND s.ended_at IS NOT NULL;
