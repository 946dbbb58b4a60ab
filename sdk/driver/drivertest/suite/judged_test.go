package suite

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
)

// constants are the capabilities that package driver has names for.
func constants(t *testing.T) driver.Capabilities {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../capabilities.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all driver.Capabilities
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Capability" {
			for _, v := range spec.Values {
				text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, driver.Capability(text))
			}
		}
		return true
	})
	return slices.Sorted(slices.Values(all))
}

// Nobody adds a capability that is declared and never judged.
func TestEveryCapabilityIsJudged(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(constants(t), Capabilities()); diff != "" || len(Capabilities()) < 20 {
		t.Errorf("each needs a case in judges, or a reason in unjudgeable:\n%s", diff)
	}
	var names []string
	for _, c := range Cases() {
		names = append(names, c.Name)
	}
	for c, cases := range judges() {
		if len(cases) == 0 {
			t.Errorf("%s has no case", c)
		}
		for _, name := range cases {
			if !slices.Contains(names, name) {
				t.Errorf("the case %s of %s is not there", name, c)
			}
		}
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	results := []Result{
		{Name: "MemoryCap", Status: Passed},
		{Name: "PidsCap", Status: Failed},
		{Name: "NetOpen", Status: Skipped, Seen: []string{"no network"}},
		{Name: "OutputTruncated", Status: Skipped, Seen: []string{"no flood"}},
		{Name: "OutputKills", Status: Passed},
	}
	declared := driver.Capabilities{
		driver.CapMemory, driver.CapPids, driver.CapNetOpen, driver.CapOutput, driver.CapCPU, driver.CapTenant, "of.tomorrow",
	}
	want := []Gap{
		{driver.CapNetOpen, "no network"},
		{driver.CapCPU, "CPUCap was not run"},
		{driver.CapTenant, unjudgeable()[driver.CapTenant]},
		{"of.tomorrow", "the suite has no case for it"},
	}
	if diff := cmp.Diff(want, Gaps(declared, results)); diff != "" {
		t.Error(diff)
	}
}
