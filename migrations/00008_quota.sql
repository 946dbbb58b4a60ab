-- What a tenant may use in a month (UTC), and what it has used. Compute time is
-- wall time times cores. A month's use is kept in parts, one for each of some
-- groups of workers, so that their batches do not wait for one row.
-- +goose Up
ALTER TABLE nofx.tenant ADD COLUMN month_compute_ms bigint; -- NULL = not bounded
GRANT SELECT (month_compute_ms) ON nofx.tenant TO nofx_system;

CREATE TABLE nofx.month_usage (
  tenant_id  text COLLATE "C" NOT NULL,
  month      date NOT NULL, -- its first day
  part       integer NOT NULL,
  attempts   bigint NOT NULL,
  compute_ms bigint NOT NULL,
  CONSTRAINT month_usage_pk PRIMARY KEY (tenant_id, month, part)
) WITH (fillfactor = 50);
ALTER TABLE nofx.month_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE nofx.month_usage FORCE ROW LEVEL SECURITY;
CREATE POLICY month_usage_tenant ON nofx.month_usage TO nofx_api
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
  WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)));
CREATE POLICY month_usage_system ON nofx.month_usage TO nofx_system USING (true) WITH CHECK (true);
GRANT SELECT ON nofx.month_usage TO nofx_api;
GRANT SELECT, INSERT, UPDATE ON nofx.month_usage TO nofx_system;

-- +goose Down
DROP TABLE nofx.month_usage;
ALTER TABLE nofx.tenant DROP COLUMN month_compute_ms;
