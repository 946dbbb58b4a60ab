-- What operators of worker hosts want to know: hosts and drivers that come, go
-- or are refused. The reaper drops old ones.
-- +goose Up
CREATE TABLE nofx.worker_event (
  tenant_id  text COLLATE "C" NOT NULL, -- who operates the worker
  id         bigint GENERATED ALWAYS AS IDENTITY,
  worker_id  text COLLATE "C" NOT NULL,
  type       text NOT NULL,
  driver     text NOT NULL DEFAULT '',
  message    text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT worker_event_pk PRIMARY KEY (id),
  CONSTRAINT worker_event_worker_fk FOREIGN KEY (worker_id) REFERENCES nofx.worker (id)
);
CREATE INDEX worker_event_newest ON nofx.worker_event (tenant_id, id DESC);
CREATE INDEX worker_event_age ON nofx.worker_event (created_at);
ALTER TABLE nofx.worker_event ENABLE ROW LEVEL SECURITY;
ALTER TABLE nofx.worker_event FORCE ROW LEVEL SECURITY;
CREATE POLICY worker_event_tenant ON nofx.worker_event TO nofx_api
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
  WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)));
CREATE POLICY worker_event_system ON nofx.worker_event TO nofx_system USING (true) WITH CHECK (true);
GRANT SELECT ON nofx.worker_event TO nofx_api;
GRANT SELECT, INSERT, DELETE ON nofx.worker_event TO nofx_system;

-- +goose Down
DROP TABLE nofx.worker_event;
