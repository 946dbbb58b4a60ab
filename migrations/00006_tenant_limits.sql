-- The most that steps of a tenant may ask for; what is not there is not
-- bounded. clip: ask for more and get that, in place of a refusal.
-- +goose Up
ALTER TABLE nofx.tenant
  ADD COLUMN ceiling json NOT NULL DEFAULT '{}',
  ADD COLUMN clip boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE nofx.tenant DROP COLUMN ceiling, DROP COLUMN clip;
