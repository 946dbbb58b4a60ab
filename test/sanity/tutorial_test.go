package sanity

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// block is a fenced part of the tutorial.
type block struct{ lang, text string }

func blocks(t *testing.T, name string) []block {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for i, part := range strings.Split(string(data), "```") {
		if i%2 == 1 {
			lang, text, _ := strings.Cut(part, "\n")
			all = append(all, block{lang, text})
		}
	}
	return all
}

// The tutorial's pieces are the example, its commands do what it says, and the
// driver compiles on its own against the module as it would be published.
func TestTutorial(t *testing.T) {
	all := blocks(t, "../../docs/writing-a-driver.md")
	want, err := os.ReadFile("../../examples/driver-minimal/main.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, b := range all {
		if b.lang == "go" {
			code.WriteString(b.text)
		}
	}
	if code.String() != string(want) {
		t.Fatal("the pieces of docs/writing-a-driver.md are not examples/driver-minimal/main.go")
	}
	if n := bytes.Count(want, []byte("\n")); n >= 150 {
		t.Errorf("the example has %d lines: under 150 is promised", n)
	}
	if testing.Short() {
		t.Skip("the commands take a minute")
	}
	dir := t.TempDir()
	env := append(os.Environ(), "PATH="+built+":"+os.Getenv("PATH"), "GOSUMDB=off", "GOFLAGS=-modcacherw -buildvcs=false",
		"GOPROXY="+publish(t), "GOMODCACHE="+t.TempDir())
	var out []byte
	for _, b := range all {
		switch b.lang {
		case "go":
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(code.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		case "sh":
			where := filepath.Join(t.TempDir(), "where")
			cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", b.text+"pwd >"+where)
			cmd.Dir, cmd.Env = dir, env
			if out, err = cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s%v\n%s", b.text, err, out)
			}
			now, err := os.ReadFile(where)
			if err != nil {
				t.Fatal(err)
			}
			dir = strings.TrimSpace(string(now))
		case "text":
			for line := range strings.Lines(b.text) {
				if !bytes.Contains(out, []byte(strings.TrimSpace(line))) {
					t.Errorf("the output does not have %q:\n%s", line, out)
				}
			}
		default:
			t.Errorf("a block in %q", b.lang)
		}
	}
}

// publish makes a module proxy that has the SDK as version v0.1.0, and what
// else it needs from this machine's cache and then from wherever that came.
func publish(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	const module, version = "github.com/nofx-run/nofx", "v0.1.0"
	root := t.TempDir()
	at := filepath.Join(root, filepath.FromSlash(module), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := os.DirFS("../..")
	mod, err := fs.ReadFile(tree, "go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	add := func(name string) {
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.Create(module + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add("go.mod")
	err = fs.WalkDir(tree, "sdk", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			add(name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"list": []byte(version + "\n"), version + ".info": []byte(`{"Version":"` + version + `","Time":"2026-01-01T00:00:00Z"}`),
		version + ".mod": mod, version + ".zip": buf.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(at, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + root + ",file://" + filepath.Join(lines[0], "cache", "download") + "," + lines[1]
}

// What the example's README says to do with a copy of it works.
func TestExampleIsCopied(t *testing.T) {
	if testing.Short() {
		t.Skip("the commands take a minute")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/driver-minimal")); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(string(readme)) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	// TestExampleMinimal has all the cases.
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", strings.Join(commands, "\n")+" --only '^Describe$'")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+built+":"+os.Getenv("PATH"), "GOSUMDB=off", "GOFLAGS=-modcacherw -buildvcs=false",
		"GOPROXY="+publish(t), "GOMODCACHE="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "1 passed, 0 failed") {
		t.Errorf("%v\n%s", err, out)
	}
}
