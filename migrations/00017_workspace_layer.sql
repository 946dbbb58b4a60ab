-- The workspaces that runs share, as they were saved: in layers, so that a run
-- can go on where its workspace is not any more.
-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION nofx.workspace_layer_holds(seq integer, sha256 text, size bigint, bytes bigint) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN seq > 0 AND sha256 ~ '^[0-9a-f]{64}$' AND size > 0 AND bytes >= 0;
END
$$;
-- +goose StatementEnd

-- The layers of a run's workspace that are not removed make it, in their order:
-- the first of them is a full one. Written only with a fenced attempt, so it
-- needs no foreign key.
CREATE TABLE nofx.workspace_layer (
  tenant_id  text COLLATE "C" NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  seq        integer NOT NULL,
  attempt_id text COLLATE "C" NOT NULL, -- after which it was saved
  sha256     text COLLATE "C" NOT NULL,
  size       bigint NOT NULL, -- bytes of the layer
  bytes      bigint NOT NULL, -- of the files in it
  full_one   boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  removed_at timestamptz, -- a full one came after it, or nobody needs the workspace any more
  CONSTRAINT workspace_layer_pk PRIMARY KEY (run_id, seq),
  CONSTRAINT workspace_layer_holds CHECK (nofx.workspace_layer_holds(seq, sha256, size, bytes))
);
CREATE INDEX workspace_layer_blob ON nofx.workspace_layer (tenant_id, sha256) WHERE removed_at IS NULL;

ALTER TABLE nofx.run
  ADD COLUMN layers       integer NOT NULL DEFAULT 0, -- number of its workspace's last layer
  ADD COLUMN workspace_no integer NOT NULL DEFAULT 0; -- counts the times that it was pinned: what a worker has from an earlier one is old
ALTER TABLE nofx.step
  ADD COLUMN saved boolean NOT NULL DEFAULT false;    -- it has succeeded in the run's workspace, and the layers have what it left there

ALTER TABLE nofx.workspace_layer ENABLE ROW LEVEL SECURITY;
ALTER TABLE nofx.workspace_layer FORCE ROW LEVEL SECURITY;
CREATE POLICY workspace_layer_tenant ON nofx.workspace_layer TO nofx_api
  USING (tenant_id = (SELECT current_setting('nofx.tenant', true)))
  WITH CHECK (tenant_id = (SELECT current_setting('nofx.tenant', true)));
CREATE POLICY workspace_layer_system ON nofx.workspace_layer TO nofx_system USING (true) WITH CHECK (true);
CREATE POLICY workspace_layer_removing ON nofx.workspace_layer AS RESTRICTIVE FOR DELETE TO nofx_system
  USING (EXISTS (SELECT 1 FROM nofx.run r WHERE r.id = run_id AND r.removing_at IS NOT NULL));
GRANT SELECT, UPDATE (removed_at) ON nofx.workspace_layer TO nofx_api;
GRANT SELECT, INSERT, DELETE, UPDATE (removed_at) ON nofx.workspace_layer TO nofx_system;

-- +goose Down
ALTER TABLE nofx.step DROP COLUMN saved;
ALTER TABLE nofx.run DROP COLUMN workspace_no, DROP COLUMN layers;
DROP TABLE nofx.workspace_layer;
DROP FUNCTION nofx.workspace_layer_holds(integer, text, bigint, bigint);
