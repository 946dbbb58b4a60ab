-- What a tenant's attempts used is added up by when they ended.
-- +goose Up
CREATE INDEX attempt_ended ON nofx.attempt (tenant_id, ended_at) WHERE ended_at IS NOT NULL;

-- +goose Down
DROP INDEX nofx.attempt_ended;
