package pluginmanifest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A folder is as safe as what lies in it, what its links lead to, and every
// folder above those: whoever can write one of them can put another in its place.
func TestCheckFolder(t *testing.T) {
	t.Parallel()
	must := func(t *testing.T, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, base string) // base/plugins is looked at, by way of base/link
		bad   bool
	}{
		"nothing wrong": {spoil: func(*testing.T, string) {}},
		"a file that all may write": {bad: true, spoil: func(t *testing.T, base string) {
			must(t, os.Chmod(filepath.Join(base, "plugins", "nofx-supervisor"), 0o757))
		}},
		"a folder above that the group may write": {bad: true, spoil: func(t *testing.T, base string) {
			must(t, os.Chmod(base, 0o775))
		}},
		"a folder above that all may write, with the sticky bit": {spoil: func(t *testing.T, base string) {
			must(t, os.Chmod(base, 0o777|os.ModeSticky))
		}},
		"a link to a folder with a file that all may write": {bad: true, spoil: func(t *testing.T, base string) {
			must(t, os.WriteFile(filepath.Join(base, "lib", "module.py"), nil, 0o644), os.Chmod(filepath.Join(base, "lib", "module.py"), 0o646),
				os.Symlink(filepath.Join(base, "lib"), filepath.Join(base, "plugins", "lib")))
		}},
		"a link to a file in a folder that all may write": {bad: true, spoil: func(t *testing.T, base string) {
			must(t, os.WriteFile(filepath.Join(base, "lib", "helper"), nil, 0o755), os.Chmod(filepath.Join(base, "lib"), 0o777),
				os.Symlink("../lib/helper", filepath.Join(base, "plugins", "helper")))
		}},
		"links in a circle, and one to nothing": {spoil: func(t *testing.T, base string) {
			must(t, os.Symlink("..", filepath.Join(base, "plugins", "up")), os.Symlink("nowhere", filepath.Join(base, "plugins", "none")),
				os.Symlink("../plugins", filepath.Join(base, "lib", "back")), os.Symlink("../lib", filepath.Join(base, "plugins", "lib")))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			must(t, os.Mkdir(filepath.Join(base, "plugins"), 0o755), os.Mkdir(filepath.Join(base, "lib"), 0o755),
				os.WriteFile(filepath.Join(base, "plugins", "nofx-supervisor"), nil, 0o755), os.Symlink("plugins", filepath.Join(base, "link")))
			c.spoil(t, base)
			for _, dir := range []string{"plugins", "link"} {
				err := CheckFolder(filepath.Join(base, dir))
				var o *OwnershipError
				if errors.As(err, &o) != c.bad || (err != nil) != c.bad {
					t.Errorf("%s: %v", dir, err)
				}
			}
		})
	}
}
