-- Whom a step may call, and what a tenant's policy lets its steps have of the
-- network: the most, and the places that are not on the Internet.
-- +goose Up
ALTER TABLE nofx.step ADD COLUMN network_allow text[] NOT NULL DEFAULT '{}';
ALTER TABLE nofx.tenant
  ADD COLUMN network text NOT NULL DEFAULT 'open',
  ADD COLUMN network_private text[] NOT NULL DEFAULT '{}',
  ADD CONSTRAINT tenant_network CHECK (network IN ('none', 'allow', 'open'));
GRANT SELECT (tenant_id, network_private) ON nofx.tenant TO nofx_system;
CREATE POLICY tenant_system ON nofx.tenant FOR SELECT TO nofx_system USING (true);

-- +goose Down
DROP POLICY tenant_system ON nofx.tenant;
REVOKE SELECT ON nofx.tenant FROM nofx_system;
ALTER TABLE nofx.tenant DROP CONSTRAINT tenant_network, DROP COLUMN network, DROP COLUMN network_private;
ALTER TABLE nofx.step DROP COLUMN network_allow;
