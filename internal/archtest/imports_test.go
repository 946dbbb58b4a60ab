package archtest

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nofx-run/nofx"

// pkg is a package as `go list` tells it. Paths of ours are relative to the
// module.
type pkg struct {
	path    string
	name    string
	doc     string
	imports []string // of the package itself, not of its tests
	tests   []string // of its tests
	files   []string
}

func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath, Name, Doc              string
			Imports, TestImports, XTestImports []string
			GoFiles, TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, pkg{
			path: relative(p.ImportPath), name: p.Name, doc: p.Doc,
			imports: mapped(p.Imports), tests: mapped(slices.Concat(p.TestImports, p.XTestImports)),
			files: slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles),
		})
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// relative turns the path of one of our packages into "./sdk/step", so that
// it cannot be taken for another module's.
func relative(path string) string {
	if rest, ok := strings.CutPrefix(path, module); ok {
		return "." + rest
	}
	return path
}

func mapped(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = relative(p)
	}
	return out
}

func ours(path string) bool { return strings.HasPrefix(path, "./") }

// under reports whether path is one of roots or below it.
func under(path string, roots ...string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// Each area imports what stands here and itself, nothing else of ours.
// ./internal holds leaf packages that any area but sdk may use.
func TestAreas(t *testing.T) {
	t.Parallel()
	areas := map[string][]string{
		"./sdk":        {},
		"./migrations": {},
		"./configs":    {},
		"./internal":   {"./sdk", "./migrations"},
		"./plugins":    {"./sdk", "./internal"},
		"./daemon":     {"./sdk", "./internal"},
		"./cmd":        {"./sdk", "./internal"},
		"./api":        {"./sdk", "./internal", "./migrations", "./configs"},
		"./tools":      {},
		"./examples":   {"./sdk"},
		"./test":       {"./sdk", "./internal"},
	}
	for _, p := range load(t) {
		area := areaOf(p.path)
		allowed, known := areas[area]
		if !known {
			t.Errorf("%s: no rule for this area; add one with its reason", p.path)
			continue
		}
		for _, imp := range p.imports {
			if ours(imp) && !under(imp, area) && !under(imp, allowed...) {
				t.Errorf("%s imports %s: %s may import only %v of ours", p.path, imp, area, allowed)
			}
		}
	}
}

func areaOf(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "./"), "/")
	return "./" + first
}

// sdk/step is for everybody, so it may cost nobody anything.
func TestStepIsStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	found := false
	for _, p := range load(t) {
		if p.path != "./sdk/step" {
			continue
		}
		found = true
		for _, imp := range p.imports {
			if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
				t.Errorf("sdk/step imports %s", imp)
			}
		}
	}
	if !found {
		t.Error("sdk/step is not there")
	}
}

func TestNobodyImportsACommand(t *testing.T) {
	t.Parallel()
	all := load(t)
	commands := map[string]bool{}
	for _, p := range all {
		if p.name == "main" {
			commands[p.path] = true
		}
	}
	for _, p := range all {
		for _, imp := range p.imports {
			if commands[imp] {
				t.Errorf("%s imports the command %s", p.path, imp)
			}
		}
	}
}

// A driver is a separate program; what two of them share is the SDK's, or one
// of the packages for drivers that run on the daemon's own host.
func TestDriversDoNotImportEachOther(t *testing.T) {
	t.Parallel()
	shared := []string{"supervisor", "supervised", "contained", "seccomp", "egress"}
	driver := func(path string) string {
		if rest, ok := strings.CutPrefix(path, "./plugins/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			return name
		}
		return ""
	}
	for _, p := range load(t) {
		own := driver(p.path)
		for _, imp := range p.imports {
			if other := driver(imp); own != "" && other != "" && other != own && !slices.Contains(shared, other) {
				t.Errorf("%s imports %s", p.path, imp)
			}
		}
	}
}

// A heavy library has one place that knows it; its types cross no seam.
func TestOneImporterPerHeavyLibrary(t *testing.T) {
	t.Parallel()
	all := load(t)
	for library, places := range map[string][]string{
		"github.com/jackc/pgx":           {"./api/internal/pg", "./internal/testpg"},
		"github.com/pressly/goose":       {"./api/internal/pg", "./migrations", "./internal/testpg"},
		"github.com/hashicorp/go-plugin": {"./sdk/driver/driverrpc", "./daemon/internal/pluginhost"},
		"github.com/hashicorp/go-hclog":  {"./internal/hclogslog", "./sdk/driver/driverrpc", "./daemon/internal/pluginhost"},
		"github.com/moby/moby/client":    {"./plugins/container"},
		"github.com/containerd/cgroups":  {"./daemon/internal/cgroup"},
		"gvisor.dev/gvisor":              {"./plugins/egress/internal/gateway"},
		"github.com/vishvananda/netlink": {"./plugins/egress/internal/gateway"},
		"github.com/danielgtaylor/huma":  {"./api/internal/httpapi"},
		"github.com/spf13/cobra":         {"./cmd/nofx/internal/cli"},
		"go.etcd.io/bbolt":               {"./daemon/internal/ledger"},
		"github.com/tink-crypto":         {"./api/internal/secret"},
	} {
		for _, p := range all {
			for _, imp := range p.imports {
				if under(imp, library) && !under(p.path, places...) && areaOf(p.path) != "./test" {
					t.Errorf("%s imports %s, which only %v may", p.path, imp, places)
				}
			}
		}
	}
}

// Test support does not belong into a program, except into the command that
// checks drivers.
func TestTestPackagesStayInTests(t *testing.T) {
	t.Parallel()
	support := []string{"./sdk/driver/drivertest", "./internal/testpg", "./internal/testclock", "./internal/testdocker", "./internal/testhost", "./test"}
	for _, p := range load(t) {
		if under(p.path, support...) || p.path == "./cmd/nofx/internal/driversanity" {
			continue
		}
		for _, imp := range p.imports {
			if under(imp, support...) {
				t.Errorf("%s imports %s", p.path, imp)
			}
		}
		if slices.Contains(p.imports, "testing") {
			t.Errorf("%s imports testing", p.path)
		}
	}
}
