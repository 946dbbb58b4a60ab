-- What nofx-api keys reseal goes through: tables in the order of their keys, so
-- many rows at a time, of which only what tells whether there is something to do
-- is read; then one row after the other. No statement takes long, and none waits
-- with a lock in hand. Each write compares what was read.

-- StepsToSeal are the steps after one. head is the beginning of what is sealed,
-- which names the key; empty = nothing is.
-- name: StepsToSeal :many
SELECT s.id, s.tenant_id, s.tool, coalesce(substring(s.sealed FROM 1 FOR 6), '')::bytea AS head
FROM nofx.step s WHERE s.id > @after ORDER BY s.id LIMIT @most;

-- name: StepToSeal :one
SELECT s.inputs, s.command, s.shown, coalesce(s.outputs, 'null')::json AS outputs, coalesce(s.sealed, '')::bytea AS sealed FROM nofx.step s WHERE s.id = @id;

-- SealStep seals a step's inputs and command, which lay in clear. outputs are
-- NULL when they need not change.
-- name: SealStep :execrows
UPDATE nofx.step SET inputs = @inputs, command = '{}', shown = @shown, outputs = coalesce(sqlc.narg(outputs)::json, outputs), sealed = @sealed
WHERE id = @id AND sealed IS NULL AND inputs::text = @was_inputs::text AND command::text = @was_command::text
  AND coalesce(outputs::text, 'null') = @was_outputs::text;

-- ResealStep puts what the step has sealed under another key.
-- name: ResealStep :execrows
UPDATE nofx.step SET sealed = @sealed WHERE id = @id AND sealed = @was::bytea;

-- DeadToSeal is StepsToSeal for entries of the DLQ. kept tells whether an entry
-- has inputs of its own.
-- name: DeadToSeal :many
SELECT d.id, d.tenant_id, d.tool, (d.inputs IS NOT NULL)::bool AS kept, coalesce(substring(d.sealed FROM 1 FOR 6), '')::bytea AS head
FROM nofx.step_dlq d WHERE d.id > @after ORDER BY d.id LIMIT @most;

-- name: DeadStepToSeal :one
SELECT coalesce(d.inputs, '{}')::json AS inputs, coalesce(d.sealed, '')::bytea AS sealed FROM nofx.step_dlq d WHERE d.id = @id;

-- name: SealDead :execrows
UPDATE nofx.step_dlq SET inputs = @inputs, sealed = @sealed WHERE id = @id AND sealed IS NULL AND inputs::text = @was_inputs::text;

-- name: ResealDead :execrows
UPDATE nofx.step_dlq SET sealed = @sealed WHERE id = @id AND sealed = @was::bytea;

-- name: ReceiversToSeal :many
SELECT r.tenant_id, r.name, coalesce(substring(r.sealed FROM 1 FOR 6), '')::bytea AS head FROM nofx.alert_receiver r
WHERE (r.tenant_id, r.name) > (@after_tenant::text, @after_name::text)
ORDER BY r.tenant_id, r.name LIMIT @most;

-- name: ReceiverToSeal :one
SELECT r.url, r.secret, coalesce(r.sealed, '')::bytea AS sealed FROM nofx.alert_receiver r WHERE r.tenant_id = @tenant_id AND r.name = @name;

-- name: SealReceiver :execrows
UPDATE nofx.alert_receiver SET url = '', secret = '', sealed = @sealed
WHERE tenant_id = @tenant_id AND name = @name AND sealed IS NULL AND url = @was_url AND secret = @was_secret;

-- name: ResealReceiver :execrows
UPDATE nofx.alert_receiver SET sealed = @sealed WHERE tenant_id = @tenant_id AND name = @name AND sealed = @was::bytea;
