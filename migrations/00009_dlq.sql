-- Retry policies, a budget of retries a run, and a DLQ that people work with.
-- +goose Up
ALTER TABLE nofx.step
  ADD COLUMN retry json NOT NULL DEFAULT '{}', -- the whole policy, handler's and step's
  ADD COLUMN spec json NOT NULL DEFAULT '{}';  -- the step as submitted, without its inputs, to render it anew
ALTER TABLE nofx.run
  ADD COLUMN retry_budget integer NOT NULL DEFAULT 100,
  ADD COLUMN retries integer NOT NULL DEFAULT 0, -- spent of it since the run was made or a person reopened it
  ADD COLUMN reopened integer NOT NULL DEFAULT 0, -- how often a person did
  ADD CONSTRAINT run_retries CHECK (retries >= 0 AND retry_budget >= 0);

-- The inputs of an entry are those of its step's row. Only when a requeue gives
-- the step other ones do the old ones move here.
ALTER TABLE nofx.step_dlq
  ADD COLUMN tool text NOT NULL DEFAULT '',
  ADD COLUMN driver text COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN step_name text NOT NULL DEFAULT '',
  ADD COLUMN worker_id text COLLATE "C" NOT NULL DEFAULT '', -- of the last attempt; '' = there was none
  ADD COLUMN reason text NOT NULL DEFAULT '',                -- why it was not tried again
  ADD COLUMN inputs json,
  ADD COLUMN state text NOT NULL DEFAULT 'open',
  ADD COLUMN resolved_at timestamptz,
  ADD COLUMN resolved_by text NOT NULL DEFAULT '', -- the key's id
  ADD CONSTRAINT step_dlq_state CHECK (state IN ('open', 'requeued', 'discarded')),
  ADD CONSTRAINT step_dlq_resolved CHECK ((state = 'open') = (resolved_at IS NULL));
UPDATE nofx.step_dlq d SET tool = s.tool, driver = s.driver, step_name = s.name FROM nofx.step s WHERE s.id = d.step_id;
CREATE INDEX step_dlq_newest ON nofx.step_dlq (tenant_id, id DESC);
CREATE INDEX step_dlq_open ON nofx.step_dlq (tenant_id, id DESC) WHERE state = 'open';
GRANT UPDATE (state, resolved_at, resolved_by, inputs) ON nofx.step_dlq TO nofx_api;

-- +goose Down
REVOKE UPDATE ON nofx.step_dlq FROM nofx_api;
DROP INDEX nofx.step_dlq_open;
DROP INDEX nofx.step_dlq_newest;
ALTER TABLE nofx.step_dlq
  DROP CONSTRAINT step_dlq_resolved, DROP CONSTRAINT step_dlq_state,
  DROP COLUMN tool, DROP COLUMN driver, DROP COLUMN step_name, DROP COLUMN worker_id, DROP COLUMN reason, DROP COLUMN inputs,
  DROP COLUMN state, DROP COLUMN resolved_at, DROP COLUMN resolved_by;
ALTER TABLE nofx.run DROP CONSTRAINT run_retries, DROP COLUMN retry_budget, DROP COLUMN retries, DROP COLUMN reopened;
ALTER TABLE nofx.step DROP COLUMN retry, DROP COLUMN spec;
