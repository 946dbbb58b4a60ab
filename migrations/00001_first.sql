-- +goose Up

-- The two roles of the running system. Neither owns anything nor bypasses row
-- level security. nofx_api works inside one tenant, which it sets for each
-- transaction; nofx_system does what crosses tenants.
-- +goose StatementBegin
DO $$
DECLARE
  r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['nofx_api', 'nofx_system'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT', r);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL; -- made by an earlier database of this server
    END;
  END LOOP;
END
$$;
-- +goose StatementEnd

CREATE SCHEMA IF NOT EXISTS nofx;
REVOKE ALL ON SCHEMA nofx FROM PUBLIC;
GRANT USAGE ON SCHEMA nofx TO nofx_api, nofx_system;

-- One row each: what is true of the installation as a whole.

CREATE TABLE nofx.installation (
  one        boolean NOT NULL DEFAULT true,
  id         text NOT NULL,
  timeline   text NOT NULL, -- changes when a backup is restored, so that old cursors are noticed
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT installation_pk PRIMARY KEY (one),
  CONSTRAINT installation_one CHECK (one)
);
INSERT INTO nofx.installation (id, timeline)
VALUES ('inst_' || replace(gen_random_uuid()::text, '-', ''), replace(gen_random_uuid()::text, '-', ''));

-- The sequencer's head: the last global position it gave out.
CREATE TABLE nofx.event_head (
  one      boolean NOT NULL DEFAULT true,
  position bigint NOT NULL DEFAULT 0,
  CONSTRAINT event_head_pk PRIMARY KEY (one),
  CONSTRAINT event_head_one CHECK (one)
);
INSERT INTO nofx.event_head DEFAULT VALUES;

-- The reaper's memory. A tick that comes long after the one before means that
-- API or database were away: nothing expires before hold_until then.
CREATE TABLE nofx.lease_clock (
  one        boolean NOT NULL DEFAULT true,
  ticked_at  timestamptz NOT NULL DEFAULT now(),
  hold_until timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT lease_clock_pk PRIMARY KEY (one),
  CONSTRAINT lease_clock_one CHECK (one)
);
INSERT INTO nofx.lease_clock DEFAULT VALUES;

-- Who works with it.

CREATE TABLE nofx.tenant (
  tenant_id  text COLLATE "C" NOT NULL,
  name       text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT tenant_pk PRIMARY KEY (tenant_id),
  CONSTRAINT tenant_id_form CHECK (tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);

CREATE TABLE nofx.project (
  tenant_id  text COLLATE "C" NOT NULL,
  id         text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT project_pk PRIMARY KEY (tenant_id, id),
  CONSTRAINT project_tenant_fk FOREIGN KEY (tenant_id) REFERENCES nofx.tenant (tenant_id)
);

CREATE TABLE nofx.api_key (
  id           text COLLATE "C" NOT NULL,
  tenant_id    text COLLATE "C" NOT NULL,
  name         text NOT NULL,
  role         text NOT NULL,
  hash         bytea NOT NULL, -- sha256 of the key; the key itself is shown once and not kept
  created_at   timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz,
  expires_at   timestamptz,
  revoked_at   timestamptz,
  CONSTRAINT api_key_pk PRIMARY KEY (id),
  CONSTRAINT api_key_tenant_fk FOREIGN KEY (tenant_id) REFERENCES nofx.tenant (tenant_id),
  CONSTRAINT api_key_role CHECK (role IN ('user', 'worker')),
  CONSTRAINT api_key_hash_unique UNIQUE (hash)
);

CREATE TABLE nofx.worker (
  id            text COLLATE "C" NOT NULL,
  tenant_id     text COLLATE "C" NOT NULL, -- who operates it; it works for all tenants
  key_id        text COLLATE "C" NOT NULL,
  name          text NOT NULL,
  incarnation   text NOT NULL,
  region        text NOT NULL,
  version       text NOT NULL,
  slots         integer NOT NULL,
  held          integer NOT NULL DEFAULT 0, -- leases, as its last heartbeat said
  drivers       json NOT NULL,
  status        text NOT NULL DEFAULT 'live',
  registered_at timestamptz NOT NULL DEFAULT now(),
  last_seen     timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT worker_pk PRIMARY KEY (id),
  CONSTRAINT worker_tenant_fk FOREIGN KEY (tenant_id) REFERENCES nofx.tenant (tenant_id),
  CONSTRAINT worker_key_fk FOREIGN KEY (key_id) REFERENCES nofx.api_key (id),
  CONSTRAINT worker_name_unique UNIQUE (tenant_id, name),
  CONSTRAINT worker_status CHECK (status IN ('live', 'draining', 'lost')),
  CONSTRAINT worker_slots CHECK (slots BETWEEN 0 AND 100000)
) WITH (fillfactor = 50);

-- What it does.

CREATE TABLE nofx.run (
  id              text COLLATE "C" NOT NULL,
  tenant_id       text COLLATE "C" NOT NULL,
  project_id      text COLLATE "C" NOT NULL,
  goal            text NOT NULL,
  status          text NOT NULL DEFAULT 'queued',
  region          text NOT NULL,
  correlation_id  text NOT NULL,
  pin             text COLLATE "C" NOT NULL DEFAULT '', -- the worker that holds the shared workspace
  steps_left      integer NOT NULL,
  steps_failed    integer NOT NULL DEFAULT 0,
  steps_cancelled integer NOT NULL DEFAULT 0,
  next_seq        bigint NOT NULL DEFAULT 1, -- of the run's next event
  cancel_at       timestamptz,
  cancel_reason   text NOT NULL DEFAULT '',
  created_at      timestamptz NOT NULL DEFAULT now(),
  started_at      timestamptz,
  ended_at        timestamptz,
  CONSTRAINT run_pk PRIMARY KEY (id),
  CONSTRAINT run_project_fk FOREIGN KEY (tenant_id, project_id) REFERENCES nofx.project (tenant_id, id),
  CONSTRAINT run_status CHECK (status IN ('queued', 'running', 'blocked', 'succeeded', 'failed', 'cancelled')),
  CONSTRAINT run_ended CHECK ((ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))),
  CONSTRAINT run_steps_left CHECK (steps_left >= 0 AND (steps_left > 0 OR ended_at IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX run_newest ON nofx.run (tenant_id, created_at DESC, id DESC);
CREATE INDEX run_pinned ON nofx.run (pin) WHERE pin <> '' AND ended_at IS NULL;

CREATE TABLE nofx.step (
  id              text COLLATE "C" NOT NULL,
  tenant_id       text COLLATE "C" NOT NULL,
  run_id          text COLLATE "C" NOT NULL,
  idx             integer NOT NULL, -- its place in the plan
  name            text COLLATE "C" NOT NULL,
  tool            text NOT NULL,
  driver          text COLLATE "C" NOT NULL,
  status          text NOT NULL,
  generation      integer NOT NULL DEFAULT 1,
  attempt         integer NOT NULL DEFAULT 0, -- number of the newest attempt; 0 = none yet
  epoch           bigint NOT NULL DEFAULT 0,  -- counts the leases given out
  losses          integer NOT NULL DEFAULT 0, -- attempts of this generation that infrastructure ended
  deps_left       integer NOT NULL,
  depends_on      text[] NOT NULL,            -- names
  dependants      text[] NOT NULL,            -- ids
  shares          boolean NOT NULL,           -- works in the run's workspace on its worker
  pin             text COLLATE "C" NOT NULL DEFAULT '',
  due_at          timestamptz NOT NULL DEFAULT now(), -- queued steps: not before
  inputs          json NOT NULL,              -- as submitted
  command         json NOT NULL,              -- what the handler made of the inputs
  reads           text NOT NULL,              -- how the outputs are read
  shown           text NOT NULL,              -- the command, for people
  resources       json NOT NULL,
  workspace       text NOT NULL,
  network         text NOT NULL,
  on_output       text NOT NULL,
  timeout_ms      bigint NOT NULL,
  grace_ms        bigint NOT NULL,
  artifacts       text[] NOT NULL,
  idempotent      boolean NOT NULL,
  tries           integer NOT NULL,           -- the step's own retry policy
  backoff_ms      bigint NOT NULL,
  idempotency_key text NOT NULL,
  outputs         json,
  verdict         json,
  created_at      timestamptz NOT NULL DEFAULT now(),
  ended_at        timestamptz,
  CONSTRAINT step_pk PRIMARY KEY (id),
  CONSTRAINT step_run_fk FOREIGN KEY (run_id) REFERENCES nofx.run (id),
  CONSTRAINT step_name_unique UNIQUE (run_id, name),
  CONSTRAINT step_status CHECK (status IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled')),
  CONSTRAINT step_ended CHECK ((ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'timed_out', 'cancelled'))),
  CONSTRAINT step_deps_left CHECK (deps_left >= 0 AND (deps_left = 0 OR status IN ('waiting', 'cancelled', 'failed'))),
  CONSTRAINT step_reads CHECK (reads IN ('shell', 'stdout-json')),
  CONSTRAINT step_workspace CHECK (workspace IN ('run', 'step')),
  CONSTRAINT step_on_output CHECK (on_output IN ('truncate', 'kill')),
  CONSTRAINT step_network CHECK (network IN ('none', 'allow', 'open'))
) WITH (fillfactor = 70);
-- A claim walks tenants × own pin × drivers through this and touches nothing else.
CREATE INDEX step_queue ON nofx.step (tenant_id, pin, driver, due_at, id) WHERE status = 'queued';

CREATE TABLE nofx.attempt (
  id             text COLLATE "C" NOT NULL,
  tenant_id      text COLLATE "C" NOT NULL,
  run_id         text COLLATE "C" NOT NULL,
  step_id        text COLLATE "C" NOT NULL,
  generation     integer NOT NULL,
  number         integer NOT NULL,
  epoch          bigint NOT NULL,
  status         text NOT NULL DEFAULT 'running',
  worker_id      text COLLATE "C" NOT NULL,
  claim_id       text COLLATE "C" NOT NULL,
  claimed_at     timestamptz NOT NULL DEFAULT now(),
  lease_until    timestamptz NOT NULL,
  listed_at      timestamptz NOT NULL DEFAULT now(), -- the worker's last word that it holds it
  cancel_at      timestamptz,
  cancel_reason  text NOT NULL DEFAULT '',
  journal_n      bigint NOT NULL DEFAULT 0, -- records 1..n are stored
  output_bytes   bigint NOT NULL DEFAULT 0,
  blob_bytes     bigint NOT NULL DEFAULT 0, -- length of its segment file that counts
  driver_version text NOT NULL DEFAULT '',
  sandbox_id     text NOT NULL DEFAULT '',
  started_at     timestamptz,
  ended_at       timestamptz,
  usage          json,
  verdict        json,
  CONSTRAINT attempt_pk PRIMARY KEY (id),
  CONSTRAINT attempt_step_fk FOREIGN KEY (step_id) REFERENCES nofx.step (id),
  CONSTRAINT attempt_status CHECK (status IN ('running', 'ended', 'lost', 'released')),
  CONSTRAINT attempt_ended CHECK ((ended_at IS NOT NULL) = (status <> 'running')),
  CONSTRAINT attempt_verdict CHECK ((verdict IS NOT NULL) = (status IN ('ended', 'lost'))),
  CONSTRAINT attempt_epoch_unique UNIQUE (step_id, epoch)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX attempt_number_unique ON nofx.attempt (step_id, generation, number) WHERE status <> 'released';
CREATE INDEX attempt_claim ON nofx.attempt (worker_id, claim_id); -- also of ended ones: a claim id is used once
CREATE INDEX attempt_running ON nofx.attempt (worker_id, lease_until) WHERE status = 'running';

-- Where an attempt's output is: framed bytes here while there is little, in
-- its blob segment after that. Written only with a fenced attempt, so it needs
-- no foreign key.
CREATE TABLE nofx.output_index (
  tenant_id   text COLLATE "C" NOT NULL,
  attempt_id  text COLLATE "C" NOT NULL,
  start       bigint NOT NULL, -- offset in the attempt's output
  length      bigint NOT NULL, -- bytes of output
  frames      bytea,
  blob_start  bigint,
  blob_length bigint,
  CONSTRAINT output_index_pk PRIMARY KEY (attempt_id, start),
  CONSTRAINT output_index_place CHECK ((frames IS NULL) = (blob_start IS NOT NULL) AND (blob_start IS NULL) = (blob_length IS NULL)),
  CONSTRAINT output_index_length CHECK (length > 0)
);

CREATE TABLE nofx.artifact (
  tenant_id  text COLLATE "C" NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  step_id    text COLLATE "C" NOT NULL,
  attempt_id text COLLATE "C" NOT NULL,
  name       text COLLATE "C" NOT NULL,
  sha256     text COLLATE "C" NOT NULL,
  size       bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT artifact_pk PRIMARY KEY (attempt_id, name),
  CONSTRAINT artifact_attempt_fk FOREIGN KEY (attempt_id) REFERENCES nofx.attempt (id),
  CONSTRAINT artifact_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  CONSTRAINT artifact_size CHECK (size >= 0)
);
CREATE INDEX artifact_run ON nofx.artifact (run_id);

-- Events are written in the transaction of the change that they tell of, under
-- the lock of their run's row, which numbers them; so they need no foreign key.
CREATE TABLE nofx.event (
  tenant_id  text COLLATE "C" NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  seq        bigint NOT NULL,
  type       text NOT NULL,
  step_id    text COLLATE "C" NOT NULL DEFAULT '',
  step_name  text NOT NULL DEFAULT '',
  attempt    integer NOT NULL DEFAULT 0,
  payload    json,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT event_pk PRIMARY KEY (run_id, seq)
);

-- Each transaction leaves one row here for each run it wrote events of. The
-- sequencer moves committed rows to event_log in one global order.
CREATE TABLE nofx.outbox (
  id        bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id text COLLATE "C" NOT NULL,
  run_id    text COLLATE "C" NOT NULL,
  first_seq bigint NOT NULL,
  last_seq  bigint NOT NULL,
  CONSTRAINT outbox_pk PRIMARY KEY (id)
);

CREATE TABLE nofx.event_log (
  position  bigint NOT NULL,
  tenant_id text COLLATE "C" NOT NULL,
  run_id    text COLLATE "C" NOT NULL,
  first_seq bigint NOT NULL,
  last_seq  bigint NOT NULL,
  CONSTRAINT event_log_pk PRIMARY KEY (position)
);
CREATE INDEX event_log_tenant ON nofx.event_log (tenant_id, position);

CREATE TABLE nofx.step_dlq (
  id         text COLLATE "C" NOT NULL,
  tenant_id  text COLLATE "C" NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  step_id    text COLLATE "C" NOT NULL,
  generation integer NOT NULL,
  cause      text NOT NULL,
  attempts   integer NOT NULL,
  history    json NOT NULL, -- the verdict of each attempt
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT step_dlq_pk PRIMARY KEY (id),
  CONSTRAINT step_dlq_step_fk FOREIGN KEY (step_id) REFERENCES nofx.step (id),
  CONSTRAINT step_dlq_once UNIQUE (step_id, generation)
);

CREATE TABLE nofx.idempotency (
  tenant_id   text COLLATE "C" NOT NULL,
  route       text NOT NULL,
  key         text COLLATE "C" NOT NULL,
  fingerprint bytea NOT NULL,
  status      integer NOT NULL,
  body        bytea NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  CONSTRAINT idempotency_pk PRIMARY KEY (tenant_id, route, key)
);
CREATE INDEX idempotency_expires ON nofx.idempotency (expires_at);

CREATE TABLE nofx.audit_log (
  id         bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id  text COLLATE "C" NOT NULL,
  at         timestamptz NOT NULL DEFAULT now(),
  principal  text NOT NULL, -- the key's id, or "system"
  action     text NOT NULL,
  target     text NOT NULL,
  outcome    text NOT NULL,
  request_id text NOT NULL DEFAULT '',
  detail     json,
  CONSTRAINT audit_log_pk PRIMARY KEY (id),
  CONSTRAINT audit_log_outcome CHECK (outcome IN ('allowed', 'denied'))
);
CREATE INDEX audit_log_tenant ON nofx.audit_log (tenant_id, id);

-- Who may touch what. A tenant table gets the tenant's policy for nofx_api;
-- nofx_system sees the rows of all tenants in the tables that it serves, and
-- of the others nothing.

GRANT SELECT ON nofx.tenant TO nofx_api;
GRANT SELECT, INSERT ON nofx.project TO nofx_api;
GRANT SELECT ON nofx.worker TO nofx_api;
GRANT SELECT, INSERT, UPDATE ON nofx.run, nofx.step TO nofx_api;
GRANT SELECT, UPDATE ON nofx.attempt TO nofx_api;
GRANT SELECT ON nofx.output_index, nofx.artifact, nofx.event_log, nofx.step_dlq TO nofx_api;
GRANT SELECT, INSERT ON nofx.event TO nofx_api;
GRANT INSERT ON nofx.outbox TO nofx_api;
GRANT SELECT, INSERT, DELETE ON nofx.idempotency TO nofx_api;
GRANT SELECT, INSERT ON nofx.audit_log TO nofx_api;

GRANT SELECT ON nofx.installation TO nofx_api, nofx_system;
GRANT SELECT, UPDATE ON nofx.event_head, nofx.lease_clock TO nofx_system;
GRANT SELECT, UPDATE ON nofx.api_key TO nofx_system;
GRANT SELECT, INSERT, UPDATE ON nofx.worker TO nofx_system;
GRANT SELECT, UPDATE ON nofx.run, nofx.step TO nofx_system;
GRANT SELECT, INSERT, UPDATE ON nofx.attempt TO nofx_system;
GRANT SELECT, INSERT ON nofx.output_index, nofx.artifact, nofx.event, nofx.event_log, nofx.step_dlq, nofx.audit_log TO nofx_system;
GRANT SELECT, INSERT, DELETE ON nofx.outbox TO nofx_system;
GRANT SELECT, DELETE ON nofx.idempotency TO nofx_system;

-- +goose StatementBegin
DO $$
DECLARE
  t text;
BEGIN
  FOR t IN
    SELECT c.table_name FROM information_schema.columns c
    WHERE c.table_schema = 'nofx' AND c.column_name = 'tenant_id'
  LOOP
    EXECUTE format('ALTER TABLE nofx.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE nofx.%I FORCE ROW LEVEL SECURITY', t);
    -- A setting that is not there is NULL, one that a transaction has left
    -- behind is empty; neither equals a tenant.
    EXECUTE format($p$CREATE POLICY %I ON nofx.%I TO nofx_api
      USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
      WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)))$p$, t || '_tenant', t);
  END LOOP;

  FOREACH t IN ARRAY ARRAY['api_key', 'worker', 'run', 'step', 'attempt', 'output_index', 'artifact',
                           'event', 'outbox', 'event_log', 'step_dlq', 'idempotency', 'audit_log'] LOOP
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO nofx_system USING (true) WITH CHECK (true)', t || '_system', t);
  END LOOP;

  -- The owner makes tenants and keys. It is subject to row level security too
  -- unless it is a superuser.
  FOREACH t IN ARRAY ARRAY['tenant', 'api_key', 'audit_log'] LOOP
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO CURRENT_USER USING (true) WITH CHECK (true)', t || '_owner', t);
  END LOOP;
END
$$;
-- +goose StatementEnd
