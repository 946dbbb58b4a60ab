-- The events of an attempt say where it was.
-- +goose Up
ALTER TABLE nofx.event ADD COLUMN region text COLLATE "C" NOT NULL DEFAULT ''; -- of its attempt; '' = that of the run

-- +goose Down
ALTER TABLE nofx.event DROP COLUMN region;
