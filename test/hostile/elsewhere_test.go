package hostile

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// design are the rows of the table in the design.
var design = strings.Fields(`H01 H02 H03 H04 H05 H06 H08 H09 H11 H14 H15 H16 H17 H18 H19 H20 H22 H23 H25 H26 H27 H29
	H31 H32 H34 H35 H37 H38 H39 H41 H42 H44 H45 H47 H48 H49 H50 H51 H52 H54 H55 H57 H58 H59 H60 H61 H62 H64 H66`)

// elsewhere are those that are no program in a sandbox, and the tests that have
// them: folder, test.
var elsewhere = map[string][2]string{
	"H27": {"cmd/nofx/internal/rootfs", "TestImportFolder"}, // a root of one's own shares no inode with the host
	"H60": {"test/hostile", "TestNoArchiveEndpoint"},
}

// absent are those whose subject NOFX does not have yet.
var absent = map[string]string{
	"H47": "nothing is a secret of NOFX's yet: what a plan marks as sensitive is sealed at rest, and not looked for in output",
}

// Each row of the design is tried, or is proven elsewhere, or says why not.
func TestEveryRow(t *testing.T) {
	t.Parallel()
	tried := map[string]bool{}
	for _, r := range Rows() {
		tried[r.ID] = true
		if !slices.Contains(design, r.ID) {
			t.Errorf("%s %s is no row of the design", r.ID, r.Name)
		}
	}
	for _, id := range design {
		at, there := elsewhere[id]
		if n := len(absent[id]); tried[id] == (there || n > 0) || there && n > 0 {
			t.Errorf("%s: tried %v, elsewhere %v, absent %q", id, tried[id], at, absent[id])
		}
		if !there {
			continue
		}
		files, err := filepath.Glob(filepath.Join("../..", at[0], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(files, func(f string) bool {
			src, err := os.ReadFile(f)
			return err == nil && bytes.Contains(src, []byte("func "+at[1]+"("))
		})
		if !found {
			t.Errorf("%s: there is no %s in %s", id, at[1], at[0])
		}
	}
}

// The engine's endpoint for archives resolves links of a container's in the
// host's view, while the container can change them. Files go through the
// supervisor; only a container that never runs is looked into.
func TestNoArchiveEndpoint(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../plugins/container/*.go")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		calls := []string{"CopyToContainer", "CopyFromContainer", "/archive"}
		if filepath.Base(f) != "vet.go" {
			calls = append(calls, "ContainerStatPath")
		}
		for _, call := range calls {
			if bytes.Contains(src, []byte(call)) {
				t.Errorf("%s has %s", f, call)
			}
		}
	}
}
