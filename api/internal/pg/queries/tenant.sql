-- TenantNetwork is what the tenant's policy lets its steps have of the network.
-- name: TenantNetwork :one
SELECT network, network_private FROM nofx.tenant WHERE tenant_id = @tenant_id;

-- name: SetTenantNetwork :execrows
UPDATE nofx.tenant SET network = @network, network_private = @private::text[] WHERE tenant_id = @tenant_id;
