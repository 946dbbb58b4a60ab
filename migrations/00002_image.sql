-- The image that a step asks its driver for; '' = the driver's default.
-- +goose Up
ALTER TABLE nofx.step ADD COLUMN image text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE nofx.step DROP COLUMN image;
