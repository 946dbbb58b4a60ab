-- What is held is looked at tenant by tenant, and in the order of its turns.
-- +goose Up
DROP INDEX nofx.run_held_time;
CREATE INDEX run_held_time ON nofx.run (tenant_id, start_at) WHERE hold = 'time' AND ended_at IS NULL;
-- How the condition is written keeps this index out of the plans by key.
CREATE INDEX run_held_order ON nofx.run (tenant_id, rank, start_at, id) WHERE hold || '' = 'turn' AND ended_at IS NULL;

-- +goose Down
DROP INDEX nofx.run_held_order;
DROP INDEX nofx.run_held_time;
CREATE INDEX run_held_time ON nofx.run (start_at) WHERE hold = 'time' AND ended_at IS NULL;
