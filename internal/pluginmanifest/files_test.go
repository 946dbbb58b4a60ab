package pluginmanifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scripted is a folder of plugins with a script in it, by a link, and its modules.
func scripted(t *testing.T) (base, plugin string) {
	t.Helper()
	base = t.TempDir()
	own := filepath.Join(base, "own", "lib")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	plugin = filepath.Join(base, "plugins", Prefix+"x")
	must(os.Mkdir(filepath.Join(base, "plugins"), 0o755), os.MkdirAll(own, 0o755),
		os.WriteFile(filepath.Join(base, "own", "script"), []byte("#!/bin/sh\n"), 0o755), os.Symlink("../own/script", plugin),
		os.WriteFile(filepath.Join(base, "own", "a.py"), []byte("a"), 0o644), os.WriteFile(filepath.Join(own, "b.py"), []byte("b"), 0o644),
		os.MkdirAll(filepath.Join(base, "shared", "deep"), 0o755), os.WriteFile(filepath.Join(base, "shared", "deep", "c.py"), []byte("c"), 0o644),
		os.Symlink("../shared", filepath.Join(base, "own", "shared")), os.Symlink("nowhere", filepath.Join(base, "own", "none")),
		os.Symlink("../../own", filepath.Join(base, "shared", "deep", "back")))
	return base, plugin
}

// Whatever an interpreted plugin could read beside itself is part of the hash.
func TestSumFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(base string) error
		same   bool
	}{
		"nothing": {func(string) error { return nil }, true},
		"its own file": {func(b string) error {
			return os.WriteFile(filepath.Join(b, "own", "script"), []byte("#!/bin/bash\n"), 0o755)
		}, true},
		"a module":               {func(b string) error { return os.WriteFile(filepath.Join(b, "own", "a.py"), []byte("A"), 0o644) }, false},
		"a module further below": {func(b string) error { return os.WriteFile(filepath.Join(b, "own", "lib", "b.py"), []byte("B"), 0o644) }, false},
		"what a link leads to": {func(b string) error {
			return os.WriteFile(filepath.Join(b, "shared", "deep", "c.py"), []byte("C"), 0o644)
		}, false},
		"a name": {func(b string) error {
			return os.Rename(filepath.Join(b, "own", "a.py"), filepath.Join(b, "own", "z.py"))
		}, false},
		"a file more":              {func(b string) error { return os.WriteFile(filepath.Join(b, "own", "site.py"), nil, 0o644) }, false},
		"a compiled module":        {func(b string) error { return os.WriteFile(filepath.Join(b, "own", "a.pyc"), nil, 0o644) }, false},
		"a file less":              {func(b string) error { return os.Remove(filepath.Join(b, "own", "a.py")) }, false},
		"the target of a link":     {func(b string) error { return os.WriteFile(filepath.Join(b, "own", "nowhere"), nil, 0o644) }, false},
		"another plugin elsewhere": {func(b string) error { return os.WriteFile(filepath.Join(b, "plugins", Prefix+"y"), nil, 0o755) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, plugin := scripted(t)
			before, err := SumFiles(plugin)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(base); err != nil {
				t.Fatal(err)
			}
			if after, err := SumFiles(plugin); err != nil || (after == before) != c.same {
				t.Errorf("%s, then %s, %v", before, after, err)
			}
		})
	}
}

// In the folder of the plugins itself each plugin has an entry of its own, and the
// manifest its signature.
func TestSumFilesBesidePlugins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sum := func() string {
		t.Helper()
		s, err := SumFiles(filepath.Join(dir, Prefix+"x"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	write(Prefix+"x", "#!/bin/sh\n")
	before := sum()
	write(Prefix+"y", "another plugin")
	write(Name, "the manifest")
	write(SignatureName, "its signature")
	if sum() != before {
		t.Error("another plugin, or the manifest, is taken for a file of this one")
	}
	write(Prefix+"x.helper", "no plugin")
	if sum() == before {
		t.Error("a file that is no plugin is left out for the beginning of its name")
	}
}

// A module that others may write to is found where a link leads.
func TestCheckBeside(t *testing.T) {
	t.Parallel()
	base, plugin := scripted(t)
	if err := CheckBeside(plugin); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"own/a.py", "own/lib", "shared/deep/c.py"} {
		path := filepath.Join(base, name)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, st.Mode()|0o002); err != nil {
			t.Fatal(err)
		}
		var o *OwnershipError
		if err := CheckBeside(plugin); !errors.As(err, &o) || !o.Writable || !strings.HasSuffix(o.Path, name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(path, st.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
