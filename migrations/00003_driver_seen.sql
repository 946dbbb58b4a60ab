-- When each driver of each worker was last healthy while its worker lived: how
-- long a step waits for its driver counts from there. The reaper keeps it.
-- +goose Up
CREATE TABLE nofx.driver_seen (
  name       text COLLATE "C" NOT NULL,
  worker_id  text COLLATE "C" NOT NULL,
  healthy_at timestamptz NOT NULL,
  CONSTRAINT driver_seen_pk PRIMARY KEY (name, worker_id)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON nofx.driver_seen TO nofx_system;

-- +goose Down
DROP TABLE nofx.driver_seen;
