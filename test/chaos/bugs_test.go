package chaos

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The bugs of scripts/chaos-bugs.sh, which takes minutes, still go into the tree
// as it is, and say by what they are found. What finds them is there.
func TestBugsApply(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bugs/*.patch")
	if err != nil || len(files) == 0 {
		t.Fatalf("no patches: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".patch"), func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			says := map[string]string{}
			for text := range strings.Lines(string(body)) {
				if name, value, ok := strings.Cut(strings.TrimSpace(text), ": "); ok {
					says[name] = value
				}
			}
			if says["Red"] == "" || says["Seeds"] == "" && says["Test"] == "" {
				t.Errorf("it does not say with what, and by what, it is found: %v", says)
			}
			cmd := exec.CommandContext(t.Context(), "git", "apply", "--check", filepath.Join("test", "chaos", file))
			cmd.Dir = "../.."
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if says["Test"] == "" {
				return
			}
			pkg, name, _ := strings.Cut(says["Test"], " ")
			there := false
			tests, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range tests {
				src, err := os.ReadFile(test)
				if err != nil {
					t.Fatal(err)
				}
				there = there || bytes.Contains(src, []byte("func "+name+"("))
			}
			if !there {
				t.Errorf("there is no %s", says["Test"])
			}
		})
	}
}
