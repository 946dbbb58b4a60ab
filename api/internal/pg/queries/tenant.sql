-- TenantPolicy is the most that the tenant's steps may have, and which of these
-- projects it does not have.
-- name: TenantPolicy :one
SELECT network, ceiling, clip, isolation, (max_runs IS NOT NULL)::bool AS runs_bounded, residency,
       ARRAY (SELECT p.id FROM (SELECT unnest(@project_ids::text[]) AS id) p
              WHERE NOT EXISTS (SELECT 1 FROM nofx.project x WHERE x.tenant_id = @tenant_id AND x.id = p.id))::text[] AS new_projects
FROM nofx.tenant WHERE tenant_id = @tenant_id;

-- name: SetTenantNetwork :execrows
UPDATE nofx.tenant SET network = @network, network_private = @private::text[] WHERE tenant_id = @tenant_id;

-- name: SetTenantIsolation :execrows
UPDATE nofx.tenant SET isolation = @isolation WHERE tenant_id = @tenant_id;

-- name: SetTenantCeiling :execrows
UPDATE nofx.tenant SET ceiling = @ceiling, clip = @clip WHERE tenant_id = @tenant_id;

-- name: SetTenantResidency :execrows
UPDATE nofx.tenant SET residency = @residency::text[] WHERE tenant_id = @tenant_id;
