-- Layers are what a run's workspace was saved as after a step that succeeded in
-- it. Those of a run that are not removed make the workspace, in their order.

-- InsertLayers adds layers in their runs' locked rows.
-- name: InsertLayers :exec
INSERT INTO nofx.workspace_layer (tenant_id, run_id, seq, attempt_id, sha256, size, bytes, full_one)
SELECT unnest(@tenant_ids::text[]), unnest(@run_ids::text[]), unnest(@seqs::int[]), unnest(@attempt_ids::text[]),
       unnest(@sha256s::text[]), unnest(@sizes::bigint[]), unnest(@bytes::bigint[]), unnest(@fulls::bool[]);

-- CountLayers notes the number of runs' last layers.
-- name: CountLayers :exec
UPDATE nofx.run r SET layers = f.layers
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@layers::int[]) AS layers) f
WHERE r.id = f.id;

-- CoverSteps notes that what steps of runs left in their workspaces is saved. The
-- last layer has the work of all that had succeeded by then, also of steps that
-- could not be saved at the time; but not of those that have only just ended
-- unsaved, with the same request.
-- name: CoverSteps :exec
UPDATE nofx.step SET saved = true
WHERE run_id = ANY (@run_ids::text[]) AND shares AND status || '' = 'succeeded' AND NOT saved AND id <> ALL (@unsaved::text[]);

-- OutdateLayers gives up layers that a full one has come after.
-- name: OutdateLayers :exec
UPDATE nofx.workspace_layer l SET removed_at = now()
FROM (SELECT unnest(@run_ids::text[]) AS run_id, unnest(@seqs::int[]) AS seq) f
WHERE l.run_id = f.run_id AND l.seq < f.seq AND l.removed_at IS NULL;

-- ForgetLayers gives up the layers of runs of which no step will need them.
-- name: ForgetLayers :exec
UPDATE nofx.workspace_layer SET removed_at = now() WHERE run_id = ANY (@run_ids::text[]) AND removed_at IS NULL;

-- LayerFor is a layer of the run of an attempt that runs, whose worker asks.
-- fence: attempt
-- name: LayerFor :one
SELECT l.tenant_id, l.sha256, l.size FROM nofx.attempt a
JOIN nofx.workspace_layer l ON l.run_id = a.run_id AND l.tenant_id = a.tenant_id AND l.seq = @seq
WHERE a.id = @id AND a.generation = @generation AND a.number = @number AND a.epoch = @epoch
  AND a.worker_id = @worker_id AND a.status = 'running'
  AND EXISTS (SELECT 1 FROM nofx.worker w WHERE w.id = a.worker_id AND w.incarnation = @incarnation AND w.key_id = @key_id);

-- DropLayers removes the rows of marked runs.
-- name: DropLayers :execrows
DELETE FROM nofx.workspace_layer WHERE run_id = ANY (@run_ids::text[]);
