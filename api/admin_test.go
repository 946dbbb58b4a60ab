package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api"
)

// A policy that drivers would refuse would end every step of the tenant's.
func TestTenantNetworkRefused(t *testing.T) {
	t.Parallel()
	for want, n := range map[string]api.TenantNetwork{
		"none, allow or open": {Most: "all"},
		"more than 256":       {Most: "allow", Private: slices.Repeat([]string{"10.0.0.1:443"}, 257)},
		"is needed here":      {Most: "allow", Private: []string{"db.example.com"}},
	} {
		if err := api.SetTenantNetwork(t.Context(), "", n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
