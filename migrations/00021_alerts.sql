-- A receiver of alerts is told one message at a time, and one that does not
-- answer has only a part of what is told at once: nobody waits behind it.
-- Rules can look at whether the audit log can be relied on. And of a worker it is
-- known whether it can put a workspace together of its layers.
-- +goose Up
ALTER TABLE nofx.alert_receiver
  ADD COLUMN busy_until timestamptz,                  -- somebody tells it something, until then at most
  ADD COLUMN failing    boolean NOT NULL DEFAULT false; -- it did not take what it was told last
GRANT UPDATE (busy_until, failing) ON nofx.alert_receiver TO nofx_system;

ALTER TABLE nofx.worker ADD COLUMN layers boolean; -- whether it knows of them, by its last claim; NULL = it has made none

-- What went wrong with the audit log, counted by the minute. A row of the log is
-- written in the transaction of what it tells of, so that neither is there
-- without the other: what can go wrong is that it is refused, and the action with
-- it, and that somebody changes the log, which only the schema's owner may.
CREATE TABLE nofx.audit_trouble (
  tenant_id text COLLATE "C" NOT NULL, -- '' = everybody's
  kind      text NOT NULL,
  at        timestamptz NOT NULL,      -- the minute
  times     bigint NOT NULL DEFAULT 1,
  said      text NOT NULL,             -- by Postgres: why, or who
  CONSTRAINT audit_trouble_pk PRIMARY KEY (tenant_id, at, kind),
  CONSTRAINT audit_trouble_kind CHECK (kind IN ('refused', 'changed'))
);
ALTER TABLE nofx.audit_trouble ENABLE ROW LEVEL SECURITY;
ALTER TABLE nofx.audit_trouble FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_trouble_tenant ON nofx.audit_trouble TO nofx_api
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
  WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)));
CREATE POLICY audit_trouble_system ON nofx.audit_trouble TO nofx_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.audit_trouble TO nofx_system;

-- +goose StatementBegin
DO $$
BEGIN
  CREATE POLICY audit_trouble_owner ON nofx.audit_trouble TO CURRENT_USER USING (true) WITH CHECK (true);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION nofx.note_audit_trouble(tenant text, what text, why text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog AS $$
  INSERT INTO nofx.audit_trouble AS t (tenant_id, kind, at, said) VALUES (tenant, what, date_trunc('minute', now()), left(why, 500))
  ON CONFLICT ON CONSTRAINT audit_trouble_pk DO UPDATE SET times = t.times + 1, said = excluded.said
$$;

CREATE FUNCTION nofx.audit_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  whose text;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    PERFORM nofx.note_audit_trouble('', 'changed', session_user || ' emptied the log');
    RETURN NULL;
  END IF;
  FOR whose IN SELECT DISTINCT w.tenant_id FROM was w ORDER BY 1 LOOP
    PERFORM nofx.note_audit_trouble(whose, 'changed', session_user || CASE TG_OP WHEN 'DELETE' THEN ' removed rows' ELSE ' changed rows' END);
  END LOOP;
  RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_log_updated AFTER UPDATE ON nofx.audit_log REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION nofx.audit_changed();
CREATE TRIGGER audit_log_removed AFTER DELETE ON nofx.audit_log REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION nofx.audit_changed();
CREATE TRIGGER audit_log_emptied AFTER TRUNCATE ON nofx.audit_log FOR EACH STATEMENT EXECUTE FUNCTION nofx.audit_changed();
REVOKE ALL ON FUNCTION nofx.note_audit_trouble(text, text, text), nofx.audit_changed() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION nofx.note_audit_trouble(text, text, text) TO nofx_system;

ALTER TABLE nofx.alert_rule DROP CONSTRAINT alert_rule_metric;
ALTER TABLE nofx.alert_rule ADD CONSTRAINT alert_rule_metric CHECK (metric IN ('queue_depth', 'oldest_age_seconds', 'dlq_growth', 'workers_lost', 'sweep_leftovers', 'breakers_open', 'spool_trouble', 'audit_trouble'));
-- +goose StatementBegin
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
    WHEN 'spool_trouble' THEN -- whose disk is full, by their last word; the lost ones have a metric of their own
      (SELECT count(*) FROM nofx.worker w WHERE w.tenant_id = tenant AND w.status <> 'lost'
         AND EXISTS (SELECT 1 FROM json_array_elements(w.drivers) d WHERE (d ->> 'full')::bool))
    WHEN 'audit_trouble' THEN -- in the last hour, the tenant's own and what is everybody's
      (SELECT coalesce(sum(a.times), 0) FROM nofx.audit_trouble a WHERE a.tenant_id IN ('', tenant) AND a.at > now() - interval '1 hour')
    ELSE 0
  END;
END
$$;
-- +goose StatementEnd

-- +goose Down
-- An episode of such a rule is over at the next tick.
DELETE FROM nofx.alert_rule WHERE metric = 'audit_trouble';
ALTER TABLE nofx.alert_rule DROP CONSTRAINT alert_rule_metric;
ALTER TABLE nofx.alert_rule ADD CONSTRAINT alert_rule_metric CHECK (metric IN ('queue_depth', 'oldest_age_seconds', 'dlq_growth', 'workers_lost', 'sweep_leftovers', 'breakers_open', 'spool_trouble'));
-- +goose StatementBegin
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
    WHEN 'spool_trouble' THEN -- whose disk is full, by their last word; the lost ones have a metric of their own
      (SELECT count(*) FROM nofx.worker w WHERE w.tenant_id = tenant AND w.status <> 'lost'
         AND EXISTS (SELECT 1 FROM json_array_elements(w.drivers) d WHERE (d ->> 'full')::bool))
    ELSE 0
  END;
END
$$;
-- +goose StatementEnd
DROP TRIGGER audit_log_updated ON nofx.audit_log;
DROP TRIGGER audit_log_removed ON nofx.audit_log;
DROP TRIGGER audit_log_emptied ON nofx.audit_log;
DROP FUNCTION nofx.audit_changed();
DROP FUNCTION nofx.note_audit_trouble(text, text, text);
DROP TABLE nofx.audit_trouble;
ALTER TABLE nofx.worker DROP COLUMN layers;
ALTER TABLE nofx.alert_receiver DROP COLUMN busy_until, DROP COLUMN failing;
