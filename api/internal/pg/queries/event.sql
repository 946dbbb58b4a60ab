-- name: InsertEvents :exec
INSERT INTO nofx.event (tenant_id, run_id, seq, type, step_id, step_name, attempt, region, payload)
SELECT e.tenant_id, e.run_id, e.seq, e.type, e.step_id, e.step_name, e.attempt, e.region, NULLIF(e.payload, '')::json
FROM (SELECT unnest(@tenant_ids::text[]) AS tenant_id, unnest(@run_ids::text[]) AS run_id, unnest(@seqs::bigint[]) AS seq,
             unnest(@types::text[]) AS type, unnest(@step_ids::text[]) AS step_id, unnest(@step_names::text[]) AS step_name,
             unnest(@attempts::int[]) AS attempt, unnest(@regions::text[]) AS region, unnest(@payloads::text[]) AS payload) e;

-- name: InsertOutbox :exec
INSERT INTO nofx.outbox (tenant_id, run_id, first_seq, last_seq)
SELECT unnest(@tenant_ids::text[]), unnest(@run_ids::text[]), unnest(@first_seqs::bigint[]), unnest(@last_seqs::bigint[]);

-- name: ListEvents :many
SELECT e.seq, e.type, e.step_id, e.step_name, e.attempt, e.region, e.payload, e.created_at
FROM nofx.event e
WHERE e.tenant_id = @tenant_id AND e.run_id = @run_id AND e.seq > @after
ORDER BY e.seq
LIMIT @most;

-- TrySequencer makes its caller the only sequencer until the end of the
-- transaction.
-- name: TrySequencer :one
SELECT pg_try_advisory_xact_lock(7312);

-- Sequence gives committed outbox rows their place in the one global order.
-- Only committed rows are seen, so a position is never given before a reader
-- can see the rows at all smaller ones.
-- name: Sequence :one
WITH moved AS (
  DELETE FROM nofx.outbox o
  WHERE o.id IN (SELECT x.id FROM nofx.outbox x ORDER BY x.id LIMIT @most)
  RETURNING o.id, o.tenant_id, o.run_id, o.first_seq, o.last_seq
), numbered AS (
  SELECT m.*, row_number() OVER (ORDER BY m.id) AS n FROM moved m
), head AS (
  UPDATE nofx.event_head SET position = position + (SELECT count(*) FROM moved)
  RETURNING position
), logged AS (
  INSERT INTO nofx.event_log (position, tenant_id, run_id, first_seq, last_seq)
  SELECT h.position - (SELECT count(*) FROM moved) + n.n, n.tenant_id, n.run_id, n.first_seq, n.last_seq
  FROM numbered n, head h
)
SELECT count(*) FROM moved;

-- name: OutboxDepth :one
SELECT count(*) FROM (SELECT 1 FROM nofx.outbox LIMIT 100000) x;
