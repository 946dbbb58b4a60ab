-- TryIdempotency holds the key until the end of the transaction; false means
-- that another transaction does.
-- name: TryIdempotency :one
SELECT pg_try_advisory_xact_lock(hashtextextended(@key::text, 7311));

-- name: GetIdempotency :one
SELECT fingerprint, status, body FROM nofx.idempotency
WHERE tenant_id = @tenant_id AND route = @route AND key = @key AND expires_at > now();

-- name: DropIdempotency :exec
DELETE FROM nofx.idempotency WHERE tenant_id = @tenant_id AND route = @route AND key = @key AND expires_at <= now();

-- name: PutIdempotency :exec
INSERT INTO nofx.idempotency (tenant_id, route, key, fingerprint, status, body, expires_at)
VALUES (@tenant_id, @route, @key, @fingerprint, @status, @body, now() + make_interval(secs => @keep_seconds::float8));

-- name: SweepIdempotency :execrows
DELETE FROM nofx.idempotency WHERE ctid IN (SELECT i.ctid FROM nofx.idempotency i WHERE i.expires_at <= now() LIMIT @most::int);
