-- Rules about what operators must know, the episodes in which one held, and
-- what is to be told to whom. nofx.alert_tick evaluates all rules; it may be
-- called by anybody at any time: by the API, by cron in the database, or over
-- HTTP. Only one call at a time does something.
-- +goose Up
CREATE TABLE nofx.alert_receiver (
  tenant_id   text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  kind        text NOT NULL,
  url         text NOT NULL,            -- is a secret for slack; nofx_api does not see it
  secret      text NOT NULL DEFAULT '', -- a webhook's, to sign with
  place       text NOT NULL,            -- host of the url, for people
  disabled_at timestamptz,              -- it said that it is gone
  created_at  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT alert_receiver_pk PRIMARY KEY (tenant_id, name),
  CONSTRAINT alert_receiver_tenant_fk FOREIGN KEY (tenant_id) REFERENCES nofx.tenant (tenant_id),
  CONSTRAINT alert_receiver_kind CHECK (kind IN ('slack', 'webhook'))
);

CREATE TABLE nofx.alert_rule (
  tenant_id      text COLLATE "C" NOT NULL,
  name           text COLLATE "C" NOT NULL,
  metric         text NOT NULL,
  above          double precision NOT NULL, -- it holds while the value is above
  below          double precision NOT NULL, -- and is over when it is not above this
  for_seconds    integer NOT NULL,          -- it has to hold for so long
  silenced_until timestamptz,
  value          double precision,          -- as of the last look
  seen_at        timestamptz,
  since          timestamptz,               -- it has held from then on
  alert_id       text COLLATE "C",          -- of the episode that is open
  CONSTRAINT alert_rule_pk PRIMARY KEY (tenant_id, name),
  CONSTRAINT alert_rule_tenant_fk FOREIGN KEY (tenant_id) REFERENCES nofx.tenant (tenant_id),
  CONSTRAINT alert_rule_metric CHECK (metric IN ('queue_depth', 'oldest_age_seconds', 'dlq_growth', 'workers_lost', 'sweep_leftovers', 'breakers_open')),
  CONSTRAINT alert_rule_bounds CHECK (below <= above AND for_seconds BETWEEN 0 AND 86400)
);

CREATE TABLE nofx.alert (
  id          text COLLATE "C" NOT NULL,
  tenant_id   text COLLATE "C" NOT NULL,
  rule        text COLLATE "C" NOT NULL,
  metric      text NOT NULL,
  above       double precision NOT NULL,
  value       double precision NOT NULL, -- when it began
  peak        double precision NOT NULL,
  opened_at   timestamptz NOT NULL DEFAULT now(),
  resolved_at timestamptz,
  CONSTRAINT alert_pk PRIMARY KEY (id)
);
CREATE INDEX alert_newest ON nofx.alert (tenant_id, opened_at DESC, id DESC);

CREATE TABLE nofx.alert_delivery (
  id         text COLLATE "C" NOT NULL, -- the same at each try
  tenant_id  text COLLATE "C" NOT NULL,
  receiver   text COLLATE "C" NOT NULL,
  alert_id   text COLLATE "C" NOT NULL DEFAULT '', -- '' = a test
  kind       text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  tries      integer NOT NULL DEFAULT 0,
  next_at    timestamptz DEFAULT now(), -- NULL = there will be no other try
  done_at    timestamptz,               -- it was taken
  said       text NOT NULL DEFAULT '',  -- what came of the last try
  CONSTRAINT alert_delivery_pk PRIMARY KEY (id),
  CONSTRAINT alert_delivery_kind CHECK (kind IN ('fired', 'resolved', 'test')),
  CONSTRAINT alert_delivery_receiver_fk FOREIGN KEY (tenant_id, receiver) REFERENCES nofx.alert_receiver (tenant_id, name) ON DELETE CASCADE
);
CREATE INDEX alert_delivery_due ON nofx.alert_delivery (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX alert_delivery_alert ON nofx.alert_delivery (alert_id, receiver);
CREATE INDEX alert_delivery_newest ON nofx.alert_delivery (tenant_id, created_at DESC);

CREATE INDEX step_dlq_age ON nofx.step_dlq (tenant_id, created_at);

-- +goose StatementBegin
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['alert_receiver', 'alert_rule', 'alert', 'alert_delivery'] LOOP
    EXECUTE format('ALTER TABLE nofx.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE nofx.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format($p$CREATE POLICY %I ON nofx.%I TO nofx_api
      USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
      WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)))$p$, t || '_tenant', t);
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO nofx_system USING (true) WITH CHECK (true)', t || '_system', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['alert_receiver', 'alert_rule'] LOOP
    EXECUTE format('CREATE POLICY %I ON nofx.%I TO CURRENT_USER USING (true) WITH CHECK (true)', t || '_owner', t);
  END LOOP;
END
$$;
-- +goose StatementEnd
GRANT SELECT (tenant_id, name, kind, place, disabled_at, created_at) ON nofx.alert_receiver TO nofx_api;
GRANT SELECT, UPDATE (silenced_until) ON nofx.alert_rule TO nofx_api;
GRANT SELECT ON nofx.alert TO nofx_api;
GRANT SELECT, INSERT ON nofx.alert_delivery TO nofx_api;
GRANT SELECT, UPDATE (disabled_at) ON nofx.alert_receiver TO nofx_system;
GRANT SELECT, UPDATE ON nofx.alert_rule TO nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.alert TO nofx_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.alert_delivery TO nofx_system;

-- alert_value is what a metric of a tenant is now. What is counted is counted
-- up to a bound, so that a look costs little in the worst of times.
-- +goose StatementBegin
CREATE FUNCTION nofx.alert_value(tenant text, metric text) RETURNS double precision
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
  RETURN CASE metric
    WHEN 'queue_depth' THEN
      (SELECT count(*) FROM (SELECT 1 FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id = tenant AND s.due_at <= now() LIMIT 100000) x)
    WHEN 'oldest_age_seconds' THEN
      (SELECT coalesce(extract(epoch FROM now() - min(x.due_at)), 0)
       FROM (SELECT s.due_at FROM nofx.step s WHERE s.status = 'queued' AND s.tenant_id = tenant AND s.due_at <= now() LIMIT 100000) x)
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

-- alert_tick looks at all rules: it opens an episode when a rule has held for
-- its time, and closes it when the value is low again. It gives the number of
-- messages that are to be sent for it.
CREATE FUNCTION nofx.alert_tick() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  r nofx.alert_rule;
  v double precision;
  told integer := 0;
  n integer;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7315) THEN
    RETURN 0;
  END IF;
  FOR r IN SELECT * FROM nofx.alert_rule ORDER BY tenant_id, name FOR UPDATE LOOP
    v := nofx.alert_value(r.tenant_id, r.metric);
    n := 0;
    IF v > r.above THEN
      r.since := coalesce(r.since, now());
      IF r.alert_id IS NOT NULL THEN
        UPDATE nofx.alert SET peak = v WHERE id = r.alert_id AND peak < v;
      ELSIF r.since <= now() - make_interval(secs => r.for_seconds) AND coalesce(r.silenced_until, '-infinity') <= now() THEN
        r.alert_id := 'alert_' || replace(gen_random_uuid()::text, '-', '');
        INSERT INTO nofx.alert (id, tenant_id, rule, metric, above, value, peak)
        VALUES (r.alert_id, r.tenant_id, r.name, r.metric, r.above, v, v);
        INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, alert_id, kind)
        SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), r.tenant_id, a.name, r.alert_id, 'fired'
        FROM nofx.alert_receiver a WHERE a.tenant_id = r.tenant_id AND a.disabled_at IS NULL;
        GET DIAGNOSTICS n = ROW_COUNT;
      END IF;
    ELSIF v <= r.below THEN
      r.since := NULL;
      IF r.alert_id IS NOT NULL THEN
        UPDATE nofx.alert SET resolved_at = now() WHERE id = r.alert_id;
        -- To those that were told of its beginning, or may be yet.
        INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, alert_id, kind)
        SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), d.tenant_id, d.receiver, d.alert_id, 'resolved'
        FROM nofx.alert_delivery d WHERE d.alert_id = r.alert_id AND d.kind = 'fired' AND (d.done_at IS NOT NULL OR d.next_at IS NOT NULL);
        GET DIAGNOSTICS n = ROW_COUNT;
        r.alert_id := NULL;
      END IF;
    ELSIF r.alert_id IS NULL THEN
      r.since := NULL; -- between the two: what is open stays open, nothing begins
    END IF;
    told := told + n;
    UPDATE nofx.alert_rule SET value = v, seen_at = now(), since = r.since, alert_id = r.alert_id
    WHERE tenant_id = r.tenant_id AND name = r.name;
  END LOOP;
  RETURN told;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION nofx.alert_tick(), nofx.alert_value(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION nofx.alert_tick(), nofx.alert_value(text, text) TO nofx_system;

-- +goose Down
DROP FUNCTION nofx.alert_tick();
DROP FUNCTION nofx.alert_value(text, text);
DROP INDEX nofx.step_dlq_age;
DROP TABLE nofx.alert_delivery, nofx.alert, nofx.alert_rule, nofx.alert_receiver;
