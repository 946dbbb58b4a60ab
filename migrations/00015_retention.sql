-- How long what has ended is kept, and episodes in which a tenant's queue
-- stands.
-- +goose Up
ALTER TABLE nofx.tenant
  ADD COLUMN keep_runs_seconds bigint,      -- from the run's end; NULL = as the API is configured, 0 = for ever
  ADD COLUMN keep_artifacts_seconds bigint, -- from when it was made; NULL the same, 0 = as long as its run
  ADD CONSTRAINT tenant_keep CHECK (coalesce(keep_runs_seconds, 0) >= 0 AND coalesce(keep_artifacts_seconds, 0) >= 0);
GRANT SELECT (keep_runs_seconds, keep_artifacts_seconds) ON nofx.tenant TO nofx_system;

ALTER TABLE nofx.run
  ADD COLUMN kept_from timestamptz,   -- when later than its end: its time counts from here
  ADD COLUMN removing_at timestamptz; -- it is being removed, in slices; for nofx_api it is not there any more
CREATE INDEX run_due ON nofx.run (tenant_id, greatest(ended_at, kept_from)) WHERE ended_at IS NOT NULL AND removing_at IS NULL;
CREATE INDEX run_removing ON nofx.run (id) WHERE removing_at IS NOT NULL;
ALTER POLICY run_tenant ON nofx.run
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)) AND removing_at IS NULL);

ALTER TABLE nofx.artifact ADD COLUMN removed_at timestamptz; -- its bytes are not kept any more
CREATE INDEX artifact_due ON nofx.artifact (tenant_id, created_at) WHERE removed_at IS NULL;
CREATE INDEX artifact_blob ON nofx.artifact (tenant_id, sha256) WHERE removed_at IS NULL;
CREATE INDEX step_dlq_open_run ON nofx.step_dlq (run_id) WHERE state = 'open';
CREATE INDEX event_log_run ON nofx.event_log (run_id);

-- What attempts used that are not kept any more, by the day (UTC) they ended.
CREATE TABLE nofx.usage_day (
  tenant_id         text COLLATE "C" NOT NULL,
  day               date NOT NULL,
  tool              text COLLATE "C" NOT NULL,
  driver            text COLLATE "C" NOT NULL,
  attempts          bigint NOT NULL,
  lost              bigint NOT NULL,
  wall_ms           bigint NOT NULL,
  cpu_usec          bigint NOT NULL,
  memory_peak_bytes bigint NOT NULL,
  io_read_bytes     bigint NOT NULL,
  io_write_bytes    bigint NOT NULL,
  net_rx_bytes      bigint NOT NULL,
  net_tx_bytes      bigint NOT NULL,
  output_bytes      bigint NOT NULL,
  CONSTRAINT usage_day_pk PRIMARY KEY (tenant_id, day, tool, driver)
) WITH (fillfactor = 50);
CREATE INDEX usage_day_age ON nofx.usage_day (day);
CREATE INDEX month_usage_age ON nofx.month_usage (month);

-- Tenants whose queue stands; a row is an episode.
CREATE TABLE nofx.queue_pressure (
  tenant_id text COLLATE "C" NOT NULL,
  run_id    text COLLATE "C" NOT NULL, -- whose timeline tells of it
  since     timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT queue_pressure_pk PRIMARY KEY (tenant_id)
);
-- The oldest step of a tenant's queue that is not parked. How the conditions are
-- written keeps this index out of the plans of claims, and step_queue out of its.
CREATE INDEX step_due ON nofx.step (tenant_id, due_at) WHERE status || '' = 'queued' AND NOT parked;

-- +goose StatementBegin
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['usage_day', 'queue_pressure'] LOOP
    EXECUTE format('ALTER TABLE nofx.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE nofx.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY %I ON nofx.%I TO nofx_api
      USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
      WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)))$p$, t || '_tenant', t);
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO nofx_system USING (true) WITH CHECK (true)', t || '_system', t);
  END LOOP;
  -- Whatever a statement says: nothing goes but what is of a marked run.
  CREATE POLICY run_removing ON nofx.run AS RESTRICTIVE FOR DELETE TO nofx_system USING (removing_at IS NOT NULL);
  FOREACH t IN ARRAY ARRAY['step', 'attempt', 'artifact', 'event', 'event_log', 'step_dlq'] LOOP
    EXECUTE format('CREATE POLICY %I ON nofx.%I AS RESTRICTIVE FOR DELETE TO nofx_system
      USING (EXISTS (SELECT 1 FROM nofx.run r WHERE r.id = run_id AND r.removing_at IS NOT NULL))', t || '_removing', t);
  END LOOP;
  CREATE POLICY output_index_removing ON nofx.output_index AS RESTRICTIVE FOR DELETE TO nofx_system
    USING (EXISTS (SELECT 1 FROM nofx.attempt a JOIN nofx.run r ON r.id = a.run_id WHERE a.id = attempt_id AND r.removing_at IS NOT NULL));
END
$$;
-- +goose StatementEnd
GRANT SELECT ON nofx.usage_day TO nofx_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.usage_day TO nofx_system;
GRANT SELECT, INSERT, DELETE ON nofx.queue_pressure TO nofx_system;
GRANT DELETE ON nofx.run, nofx.step, nofx.attempt, nofx.output_index, nofx.artifact, nofx.event, nofx.event_log, nofx.step_dlq, nofx.month_usage TO nofx_system;
GRANT UPDATE (removed_at) ON nofx.artifact TO nofx_system;

-- queue_oldest is when the oldest step of a tenant's queue was due; NULL when
-- none is.
-- +goose StatementBegin
CREATE FUNCTION nofx.queue_oldest(tenant text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT s.due_at FROM nofx.step s
  WHERE s.status || '' = 'queued' AND NOT s.parked AND s.tenant_id = tenant AND s.due_at <= now()
  ORDER BY s.due_at LIMIT 1
$$;

CREATE OR REPLACE FUNCTION nofx.alert_value(tenant text, metric text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
  RETURN CASE metric
    WHEN 'queue_depth' THEN
      (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status || '' = 'queued' AND NOT s.parked AND s.tenant_id = tenant AND s.due_at <= now() LIMIT 100000) x)
    WHEN 'oldest_age_seconds' THEN
      coalesce(extract(epoch FROM now() - nofx.queue_oldest(tenant)), 0)
    WHEN 'dlq_growth' THEN -- in the last hour
      (SELECT count(*) FROM (SELECT 1 FROM nofx.step_dlq d WHERE d.tenant_id = tenant AND d.created_at > now() - interval '1 hour' LIMIT 100000) x)
    WHEN 'workers_lost' THEN -- in the last day
      (SELECT count(*) FROM nofx.worker w WHERE w.tenant_id = tenant AND w.status = 'lost' AND w.last_seen > now() - interval '1 day')
    WHEN 'sweep_leftovers' THEN -- in the last hour
      (SELECT count(*) FROM (SELECT 1 FROM nofx.worker_event e
                             WHERE e.tenant_id = tenant AND e.type = 'sweep.removed' AND e.created_at > now() - interval '1 hour' LIMIT 100000) x)
    WHEN 'breakers_open' THEN -- the tenant's own, and those that are everybody's
      (SELECT count(*) FROM nofx.handler_health h WHERE h.state <> 'closed' AND h.tenant_id IN ('', tenant))
    ELSE 0
  END;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION nofx.queue_oldest(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION nofx.queue_oldest(text) TO nofx_system;

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION nofx.alert_value(tenant text, metric text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
  RETURN CASE metric
    WHEN 'queue_depth' THEN
      (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id = tenant AND s.due_at <= now() LIMIT 100000) x)
    WHEN 'oldest_age_seconds' THEN
      (SELECT coalesce(extract(epoch FROM now() - min(x.due_at)), 0)
       FROM (SELECT s.due_at FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id = tenant AND s.due_at <= now() LIMIT 100000) x)
    WHEN 'dlq_growth' THEN
      (SELECT count(*) FROM (SELECT 1 FROM nofx.step_dlq d WHERE d.tenant_id = tenant AND d.created_at > now() - interval '1 hour' LIMIT 100000) x)
    WHEN 'workers_lost' THEN
      (SELECT count(*) FROM nofx.worker w WHERE w.tenant_id = tenant AND w.status = 'lost' AND w.last_seen > now() - interval '1 day')
    WHEN 'sweep_leftovers' THEN
      (SELECT count(*) FROM (SELECT 1 FROM nofx.worker_event e
                             WHERE e.tenant_id = tenant AND e.type = 'sweep.removed' AND e.created_at > now() - interval '1 hour' LIMIT 100000) x)
    WHEN 'breakers_open' THEN
      (SELECT count(*) FROM nofx.handler_health h WHERE h.state <> 'closed' AND h.tenant_id IN ('', tenant))
    ELSE 0
  END;
END
$$;
-- +goose StatementEnd
DROP FUNCTION nofx.queue_oldest(text);
DROP INDEX nofx.step_due;
DROP TABLE nofx.queue_pressure, nofx.usage_day;
DROP INDEX nofx.month_usage_age, nofx.event_log_run, nofx.step_dlq_open_run, nofx.artifact_blob, nofx.artifact_due;
DROP POLICY run_removing ON nofx.run;
DROP POLICY step_removing ON nofx.step;
DROP POLICY attempt_removing ON nofx.attempt;
DROP POLICY artifact_removing ON nofx.artifact;
DROP POLICY event_removing ON nofx.event;
DROP POLICY event_log_removing ON nofx.event_log;
DROP POLICY step_dlq_removing ON nofx.step_dlq;
DROP POLICY output_index_removing ON nofx.output_index;
REVOKE DELETE ON nofx.run, nofx.step, nofx.attempt, nofx.output_index, nofx.artifact, nofx.event, nofx.event_log, nofx.step_dlq, nofx.month_usage FROM nofx_system;
REVOKE UPDATE (removed_at) ON nofx.artifact FROM nofx_system;
ALTER TABLE nofx.artifact DROP COLUMN removed_at;
ALTER POLICY run_tenant ON nofx.run USING (tenant_id = (SELECT current_setting('nofx.tenant', true)));
ALTER TABLE nofx.run DROP COLUMN kept_from, DROP COLUMN removing_at;
ALTER TABLE nofx.tenant DROP CONSTRAINT tenant_keep, DROP COLUMN keep_runs_seconds, DROP COLUMN keep_artifacts_seconds;
