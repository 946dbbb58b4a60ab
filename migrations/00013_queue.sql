-- What a queue needs beyond age: priority, keys that bound how many run at
-- once, quotas of concurrent runs and steps, runs for later, and regions.
-- +goose Up

ALTER TABLE nofx.run
  ADD COLUMN rank             smallint NOT NULL DEFAULT 0, -- lower goes first: the priority, negated
  ADD COLUMN hold             text NOT NULL DEFAULT '',    -- it has not been let go: until its time, or until it is its turn
  ADD COLUMN start_at         timestamptz NOT NULL DEFAULT now(), -- not before
  ADD COLUMN concurrency_key  text COLLATE "C" NOT NULL DEFAULT '', -- of runs
  ADD COLUMN concurrency_most integer NOT NULL DEFAULT 0,
  ADD CONSTRAINT run_hold CHECK (hold IN ('', 'time', 'turn')),
  ADD CONSTRAINT run_concurrency CHECK ((concurrency_key = '') = (concurrency_most = 0));
CREATE INDEX run_held_time ON nofx.run (start_at) WHERE hold = 'time' AND ended_at IS NULL;
CREATE INDEX run_held_turn ON nofx.run (tenant_id, concurrency_key, rank, start_at, id) WHERE hold = 'turn' AND ended_at IS NULL;
CREATE INDEX run_let_go ON nofx.run (tenant_id, concurrency_key) WHERE hold = '' AND ended_at IS NULL;

ALTER TABLE nofx.step
  ADD COLUMN rank             smallint NOT NULL DEFAULT 0,
  ADD COLUMN region           text COLLATE "C" NOT NULL DEFAULT '', -- where it is placed; '' = anywhere
  ADD COLUMN regions          text[] NOT NULL DEFAULT '{}',         -- where it may be, in order; empty = anywhere
  ADD COLUMN concurrency_key  text COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN concurrency_most integer NOT NULL DEFAULT 0,           -- steps with that key that run at once
  ADD COLUMN parked           boolean NOT NULL DEFAULT false,       -- queued, and set aside while as many run with its key as may
  ADD CONSTRAINT step_concurrency CHECK ((concurrency_key = '') = (concurrency_most = 0));
DROP INDEX nofx.step_queue;
-- A claim walks tenants × pin × drivers × regions, and then lanes × ranks,
-- through this and touches nothing else.
CREATE INDEX step_queue ON nofx.step (tenant_id, parked, pin, driver, region, lane, rank, due_at, id) WHERE status = 'queued';
CREATE INDEX step_parked ON nofx.step (tenant_id, concurrency_key, rank, due_at, id) WHERE status = 'queued' AND parked;
CREATE INDEX step_keyed ON nofx.step (tenant_id, concurrency_key) WHERE ended_at IS NULL AND concurrency_key <> '';
CREATE INDEX step_running ON nofx.step (tenant_id, concurrency_key) WHERE status = 'running';

ALTER TABLE nofx.attempt ADD COLUMN region text COLLATE "C" NOT NULL DEFAULT ''; -- where it was

-- Who wants to count what runs, and rely on it, locks a row of this: that of
-- the tenant has the key ''. Every claim that adds to the count, and every end
-- of a step with a key, moves the version on, so that whoever has counted
-- before it got the lock knows.
CREATE TABLE nofx.concurrency (
  tenant_id text COLLATE "C" NOT NULL,
  key       text COLLATE "C" NOT NULL,
  version   bigint NOT NULL DEFAULT 0,
  made_at   timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT concurrency_pk PRIMARY KEY (tenant_id, key)
) WITH (fillfactor = 50);
ALTER TABLE nofx.concurrency ENABLE ROW LEVEL SECURITY;
ALTER TABLE nofx.concurrency FORCE ROW LEVEL SECURITY;
CREATE POLICY concurrency_tenant ON nofx.concurrency TO nofx_api
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
  WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)));
CREATE POLICY concurrency_system ON nofx.concurrency TO nofx_system USING (true) WITH CHECK (true);
CREATE POLICY concurrency_owner ON nofx.concurrency TO CURRENT_USER USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON nofx.concurrency TO nofx_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.concurrency TO nofx_system;

ALTER TABLE nofx.tenant
  ADD COLUMN max_runs  integer, -- at once; NULL = not bounded
  ADD COLUMN max_steps integer,
  ADD COLUMN residency text[] NOT NULL DEFAULT '{}', -- the regions that its steps may run in; empty = any
  ADD CONSTRAINT tenant_max_runs CHECK (max_runs > 0),
  ADD CONSTRAINT tenant_max_steps CHECK (max_steps > 0);
GRANT SELECT (max_runs, max_steps, residency) ON nofx.tenant TO nofx_system;

-- +goose Down
ALTER TABLE nofx.tenant DROP COLUMN max_runs, DROP COLUMN max_steps, DROP COLUMN residency;
DROP TABLE nofx.concurrency;
ALTER TABLE nofx.attempt DROP COLUMN region;
DROP INDEX nofx.step_running, nofx.step_keyed, nofx.step_parked, nofx.step_queue;
ALTER TABLE nofx.step DROP COLUMN rank, DROP COLUMN region, DROP COLUMN regions, DROP COLUMN concurrency_key, DROP COLUMN concurrency_most, DROP COLUMN parked;
CREATE INDEX step_queue ON nofx.step (tenant_id, pin, driver, lane, due_at, id) WHERE status = 'queued';
ALTER TABLE nofx.run DROP COLUMN rank, DROP COLUMN hold, DROP COLUMN start_at, DROP COLUMN concurrency_key, DROP COLUMN concurrency_most;
