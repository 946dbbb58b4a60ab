-- The isolation level that a tenant's steps must have; '' = what they ask for.
-- +goose Up
ALTER TABLE nofx.tenant
  ADD COLUMN isolation text NOT NULL DEFAULT '',
  ADD CONSTRAINT tenant_isolation CHECK (isolation IN ('', 'gvisor'));

-- +goose Down
ALTER TABLE nofx.tenant DROP CONSTRAINT tenant_isolation, DROP COLUMN isolation;
