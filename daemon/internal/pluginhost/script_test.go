package pluginhost

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/wire"
)

// script makes the plugin of that name one that is interpreted, with the test
// binary for the module that it goes on in; linked, its folder is elsewhere and
// the plugin a link.
func script(t *testing.T, dir, name string, linked bool) (own string) {
	t.Helper()
	own, plugin := dir, filepath.Join(dir, prefix+name)
	if linked {
		own = filepath.Join(filepath.Dir(dir), "own-"+name)
	}
	lib := filepath.Join(own, "lib")
	if err := errors.Join(os.MkdirAll(lib, 0o755), os.Rename(plugin, filepath.Join(lib, prefix+name))); err != nil {
		t.Fatal(err)
	}
	text := "#!/bin/sh\nexec \"$(dirname \"$(readlink -f \"$0\")\")/lib/" + prefix + name + "\"\n"
	if err := os.WriteFile(filepath.Join(own, prefix+name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if linked {
		if err := os.Symlink(filepath.Join(own, prefix+name), plugin); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// The manifest vouches for what an interpreted plugin reads, too, wherever that is.
func TestInterpretedPlugins(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, c := range map[string]struct {
		spoil  func(own string) error // after it was signed
		reason string
	}{
		"nothing wrong": {spoil: func(string) error { return nil }},
		"a module changed": {reason: reasonSwapped, spoil: func(own string) error {
			f, err := os.OpenFile(filepath.Join(own, "lib", prefix+"memory"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		}},
		"a module came":                    {reason: reasonSwapped, spoil: func(own string) error { return os.WriteFile(filepath.Join(own, "site.py"), nil, 0o644) }},
		"a module that all may write to":   {reason: reasonWritable, spoil: func(own string) error { return os.Chmod(filepath.Join(own, "lib", prefix+"memory"), 0o757) }},
		"a stranger's folder with modules": {reason: reasonOwner, spoil: func(own string) error { return os.Chown(filepath.Join(own, "lib"), nobody, -1) }},
	} {
		for what, linked := range map[string]bool{"in the folder": false, "by a link": true} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				r := start(t, []string{"memory"}, func(cfg *Config) {
					cfg.AllowUnsigned, cfg.ManifestKey = false, pluginmanifest.PublicOf(key)
					own := script(t, cfg.Dir, "memory", linked)
					signDir(t, cfg.Dir, key, "memory")
					if err := c.spoil(own); err != nil {
						t.Fatal(err)
					}
				})
				if c.reason == "" {
					r.infoOf(t, "memory", "healthy", healthy)
					r.echo(t, "memory")
					return
				}
				r.infoOf(t, "memory", "refused", func(i wire.DriverInfo) bool { return i.Refused == c.reason })
				if strings.Contains(r.log.String(), `plugin started"`) {
					t.Error("it was started")
				}
			})
		}
	}
}

// Why an interpreter gave up is told at the level that a daemon logs at.
func TestLastLines(t *testing.T) {
	t.Parallel()
	log := &logBuffer{}
	start(t, []string{"memory"}, func(cfg *Config) {
		cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
		text := "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done\necho ' in main' >&2\necho 'no module named \033[1mservice' >&2\nexit 1\n"
		if err := os.WriteFile(filepath.Join(cfg.Dir, prefix+"memory"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	log.until(t, `"msg":"what the plugin wrote last","driver":"memory","lines":["line 2",`)
	log.until(t, `" in main","no module named  [1mservice"]`)
}
