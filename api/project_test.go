package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nofx-run/nofx/api"
)

// A tenant has so many projects and no more, however many of its runs name new
// ones at once; those that are there go on, and so do other tenants.
func TestProjectsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.MaxProjects = 3 })
	r.client("other", "user")
	body := []byte(`{"plan":{"goal":"test","steps":[{"name":"a","tool":"test:echo"}]}}`)
	post := func(tenant, project string) (int, string) {
		resp, raw := r.call("POST", "/api/runs", r.keys[tenant+" user"], body, "X-Project-Id", project)
		return resp.StatusCode, string(raw)
	}
	var wg sync.WaitGroup
	statuses := make([]int, 12)
	for i := range statuses {
		wg.Go(func() {
			var text string
			statuses[i], text = post("acme", fmt.Sprint("p", i))
			if statuses[i] != http.StatusCreated && (statuses[i] != http.StatusUnprocessableEntity || !strings.Contains(text, "header.x-project-id") ||
				!strings.Contains(text, fmt.Sprintf("p%d", i)) || !strings.Contains(text, "it may have 3") || !strings.Contains(text, "NOFX_MAX_PROJECTS")) {
				t.Errorf("project p%d: %d %s", i, statuses[i], text)
			}
		})
	}
	wg.Wait()
	have := r.column("SELECT id FROM nofx.project WHERE tenant_id = 'acme' ORDER BY id")
	if len(have) != 3 {
		t.Errorf("the tenant has the projects %v", have)
	}
	for i, status := range statuses {
		want := http.StatusUnprocessableEntity
		for _, id := range have {
			if id == fmt.Sprint("p", i) {
				want = http.StatusCreated
			}
		}
		if status != want {
			t.Errorf("project p%d: %d, want %d, of %v", i, status, want, have)
		}
	}
	for _, id := range have {
		if status, text := post("acme", id); status != http.StatusCreated {
			t.Errorf("project %s that is there: %d %s", id, status, text)
		}
	}
	if status, text := post("other", "p-new"); status != http.StatusCreated {
		t.Errorf("another tenant: %d %s", status, text)
	}
}
