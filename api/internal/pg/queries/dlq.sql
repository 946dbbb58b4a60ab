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
