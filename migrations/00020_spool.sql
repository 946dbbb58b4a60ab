-- Rules can look at workers that have no room for what steps leave.
-- +goose Up
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

-- +goose Down
-- An episode of such a rule is over at the next tick.
DELETE FROM nofx.alert_rule WHERE metric = 'spool_trouble';
ALTER TABLE nofx.alert_rule DROP CONSTRAINT alert_rule_metric;
ALTER TABLE nofx.alert_rule ADD CONSTRAINT alert_rule_metric CHECK (metric IN ('queue_depth', 'oldest_age_seconds', 'dlq_growth', 'workers_lost', 'sweep_leftovers', 'breakers_open'));
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
    ELSE 0
  END;
END
$$;
-- +goose StatementEnd
