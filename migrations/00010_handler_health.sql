-- Circuit breakers, and steps that have more than one driver to go to.
-- +goose Up

-- One row for each breaker that something has happened to. A lane is a handler,
-- or a handler's steps of one tenant where tenant_id says so.
CREATE TABLE nofx.handler_health (
  tenant_id  text COLLATE "C" NOT NULL, -- '' = of all tenants
  lane       text COLLATE "C" NOT NULL,
  handler    text COLLATE "C" NOT NULL,
  driver     text COLLATE "C" NOT NULL,
  state      text NOT NULL,
  generation bigint NOT NULL, -- counts the changes
  opens      integer NOT NULL,
  forced     boolean NOT NULL,
  ready_at   timestamptz, -- not closed: when a probe may go; NULL = never
  probe_id   text COLLATE "C" NOT NULL, -- half open: the attempt that is the probe
  probe_ms   bigint NOT NULL, -- how long a probe keeps the next one waiting
  reason     text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT handler_health_pk PRIMARY KEY (lane, driver),
  CONSTRAINT handler_health_state CHECK (state IN ('closed', 'open', 'half_open')),
  CONSTRAINT handler_health_ready CHECK (state <> 'half_open' OR ready_at IS NOT NULL)
) WITH (fillfactor = 50);

-- What attempts came to, by their worker's shard, so that workers do not queue
-- on one row. Three spans of half a window; the oldest falls out as time goes.
CREATE TABLE nofx.handler_tally (
  tenant_id   text COLLATE "C" NOT NULL,
  lane        text COLLATE "C" NOT NULL,
  driver      text COLLATE "C" NOT NULL,
  shard       integer NOT NULL,
  generation  bigint NOT NULL, -- of the breaker
  span        bigint NOT NULL, -- number of the newest span
  good0       bigint NOT NULL,
  good1       bigint NOT NULL DEFAULT 0,
  good2       bigint NOT NULL DEFAULT 0,
  bad0        bigint NOT NULL,
  bad1        bigint NOT NULL DEFAULT 0,
  bad2        bigint NOT NULL DEFAULT 0,
  streak      bigint NOT NULL, -- bad ones since the last good one of this shard
  streak_from timestamptz,
  last_good   timestamptz,
  last_bad    timestamptz,
  CONSTRAINT handler_tally_pk PRIMARY KEY (lane, driver, shard)
) WITH (fillfactor = 50);

CREATE TABLE nofx.breaker_event (
  tenant_id  text COLLATE "C" NOT NULL,
  id         bigint GENERATED ALWAYS AS IDENTITY,
  handler    text COLLATE "C" NOT NULL,
  driver     text COLLATE "C" NOT NULL,
  type       text NOT NULL,
  reason     text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT breaker_event_pk PRIMARY KEY (id)
);
CREATE INDEX breaker_event_newest ON nofx.breaker_event (tenant_id, id DESC);
CREATE INDEX breaker_event_age ON nofx.breaker_event (created_at);

ALTER TABLE nofx.step
  ADD COLUMN lane text COLLATE "C" NOT NULL DEFAULT '', -- of its breaker on its driver; '' = it has none
  ADD COLUMN drivers text[] NOT NULL DEFAULT '{}',      -- in order, where there is more than one
  ADD COLUMN lanes text[] NOT NULL DEFAULT '{}',        -- of each of them
  ADD COLUMN place integer NOT NULL DEFAULT 1,          -- of its driver among them
  ADD COLUMN moved text NOT NULL DEFAULT '',            -- why it is not on the first
  ADD COLUMN on_open text NOT NULL DEFAULT 'wait',
  ADD CONSTRAINT step_on_open CHECK (on_open IN ('wait', 'fail', 'fallback')),
  ADD CONSTRAINT step_lanes CHECK (cardinality(lanes) = cardinality(drivers));
-- A claim walks tenants × own pin × drivers × lanes through this and touches
-- nothing else: a lane whose breaker is open is stepped over, however long.
DROP INDEX nofx.step_queue;
CREATE INDEX step_queue ON nofx.step (tenant_id, pin, driver, lane, due_at, id) WHERE status = 'queued';
-- Steps that do not just wait where they are.
CREATE INDEX step_choosy ON nofx.step (lane, driver, due_at, id) WHERE status = 'queued' AND (on_open <> 'wait' OR cardinality(drivers) > 1);

ALTER TABLE nofx.attempt
  ADD COLUMN breaker_generation bigint NOT NULL DEFAULT 0, -- that it was let through under
  ADD COLUMN probe boolean NOT NULL DEFAULT false,
  ADD COLUMN driver text NOT NULL DEFAULT '',
  ADD COLUMN moved text NOT NULL DEFAULT '';               -- why it was not on the step's first driver

ALTER TABLE nofx.api_key DROP CONSTRAINT api_key_role, ADD CONSTRAINT api_key_role CHECK (role IN ('user', 'worker', 'operator'));

-- +goose StatementBegin
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['handler_health', 'handler_tally', 'breaker_event'] LOOP
    EXECUTE format('ALTER TABLE nofx.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE nofx.%I FORCE ROW LEVEL SECURITY', t);
    -- A tenant sees its own and, read only, what is of all tenants. A setting
    -- that a transaction has left behind is empty, like their tenant_id.
    EXECUTE format($p$CREATE POLICY %I ON nofx.%I TO nofx_api
      USING (tenant_id = (SELECT current_setting('nofx.tenant', true)) AND tenant_id <> '')
      WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)) AND tenant_id <> '')$p$, t || '_tenant', t);
    EXECUTE format($p$CREATE POLICY %I ON nofx.%I FOR SELECT TO nofx_api
      USING (tenant_id = ANY (ARRAY['', (SELECT current_setting('nofx.tenant', true))]) AND (SELECT current_setting('nofx.tenant', true)) <> '')$p$, t || '_shared', t);
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO nofx_system USING (true) WITH CHECK (true)', t || '_system', t);
    EXECUTE format('GRANT SELECT ON nofx.%I TO nofx_api', t);
  END LOOP;
END
$$;
-- +goose StatementEnd
GRANT SELECT, INSERT, UPDATE ON nofx.handler_health, nofx.handler_tally TO nofx_system;
GRANT SELECT, INSERT, DELETE ON nofx.breaker_event TO nofx_system;

-- +goose Down
ALTER TABLE nofx.api_key DROP CONSTRAINT api_key_role;
DELETE FROM nofx.api_key WHERE role = 'operator';
ALTER TABLE nofx.api_key ADD CONSTRAINT api_key_role CHECK (role IN ('user', 'worker'));
ALTER TABLE nofx.attempt DROP COLUMN breaker_generation, DROP COLUMN probe, DROP COLUMN driver, DROP COLUMN moved;
DROP INDEX nofx.step_choosy;
DROP INDEX nofx.step_queue;
ALTER TABLE nofx.step DROP CONSTRAINT step_on_open, DROP CONSTRAINT step_lanes, DROP COLUMN lane, DROP COLUMN drivers, DROP COLUMN lanes, DROP COLUMN place, DROP COLUMN moved, DROP COLUMN on_open;
CREATE INDEX step_queue ON nofx.step (tenant_id, pin, driver, due_at, id) WHERE status = 'queued';
DROP TABLE nofx.breaker_event;
DROP TABLE nofx.handler_tally;
DROP TABLE nofx.handler_health;
