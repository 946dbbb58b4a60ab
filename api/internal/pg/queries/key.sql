-- name: CreateTenant :exec
INSERT INTO nofx.tenant (tenant_id, name) VALUES (@tenant_id, @tenant_id) ON CONFLICT ON CONSTRAINT tenant_pk DO NOTHING;

-- name: CreateKey :exec
INSERT INTO nofx.api_key (id, tenant_id, name, role, hash) VALUES (@id, @tenant_id, @name, @role, @hash);

-- UseKey finds the valid key with this hash and notes that it was used.
-- name: UseKey :one
UPDATE nofx.api_key SET last_used_at = now()
WHERE hash = @hash AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
RETURNING id, tenant_id, role;
