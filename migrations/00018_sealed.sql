-- What must not lie in clear is sealed by the API, with keys that the database
-- never has. A row that has nothing to hide has NULL here, which costs it
-- nothing.
-- +goose Up
ALTER TABLE nofx.step ADD COLUMN sealed bytea;     -- inputs and command; then inputs has place holders, and command is {}
ALTER TABLE nofx.step_dlq ADD COLUMN sealed bytea; -- of inputs, where the entry has kept its own
ALTER TABLE nofx.alert_receiver ADD COLUMN sealed bytea, -- url and secret, which are empty then
  ADD CONSTRAINT alert_receiver_sealed CHECK (sealed IS NULL OR (url = '' AND secret = ''));
-- It cannot be compressed.
ALTER TABLE nofx.step ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE nofx.step_dlq ALTER COLUMN sealed SET STORAGE EXTERNAL;

GRANT UPDATE (sealed) ON nofx.step_dlq TO nofx_api;
-- For nofx-api keys reseal.
GRANT UPDATE (inputs, sealed) ON nofx.step_dlq TO nofx_system;
GRANT UPDATE (url, secret, sealed) ON nofx.alert_receiver TO nofx_system;

-- +goose Down
REVOKE UPDATE (url, secret) ON nofx.alert_receiver FROM nofx_system;
REVOKE UPDATE (inputs) ON nofx.step_dlq FROM nofx_system;
ALTER TABLE nofx.alert_receiver DROP CONSTRAINT alert_receiver_sealed, DROP COLUMN sealed;
ALTER TABLE nofx.step_dlq DROP COLUMN sealed;
ALTER TABLE nofx.step DROP COLUMN sealed;
