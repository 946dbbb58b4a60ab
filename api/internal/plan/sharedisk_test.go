package plan

import (
	"strconv"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// Of steps that share a workspace, what one asks for holds; the defaults of their
// tools are nobody's wish, and contradict nothing.
func TestShareDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		asked, byTool []int64 // of each step
		want          int64
		fault         string
	}{
		{"nothing", []int64{0, 0}, []int64{0, 0}, 0, ""},
		{"one default", []int64{0, 0}, []int64{0, 512}, 512, ""},
		{"two defaults", []int64{0, 0, 0}, []int64{64, 512, 128}, 512, ""},
		{"a request below a default", []int64{0, 64}, []int64{512, 512}, 64, ""},
		{"a request above a default", []int64{1024, 0}, []int64{0, 512}, 1024, ""},
		{"two requests", []int64{0, 64, 32}, []int64{512, 0, 0}, 64, `steps[2].resources.disk_mb: the step shares the run's workspace with "s1", which asks for 64`},
	} {
		var steps []Step
		for i, mb := range c.asked {
			s := Step{Name: "s" + strconv.Itoa(i), OnHost: true, Workspace: step.WorkspaceRun, asked: asked{Resources: step.Resources{DiskMB: mb}}}
			s.Resources = s.asked.Merge(step.Resources{DiskMB: c.byTool[i]})
			steps = append(steps, s)
		}
		own := Step{Name: "own", OnHost: true, Workspace: step.WorkspaceStep, Resources: step.Resources{DiskMB: 9}}
		f := &faults{}
		steps = append(steps, own)
		shareDisk(f, steps)
		switch {
		case c.fault != "":
			if len(f.list) != 1 || !strings.Contains(f.err().Error(), c.fault) {
				t.Errorf("%s: %v", c.name, f.list)
			}
			continue
		case len(f.list) > 0:
			t.Errorf("%s: %v", c.name, f.err())
		}
		for _, s := range steps {
			want := c.want
			if s.Name == "own" {
				want = 9
			}
			if s.Resources.DiskMB != want {
				t.Errorf("%s: %s has %d, want %d", c.name, s.Name, s.Resources.DiskMB, want)
			}
		}
	}
}
