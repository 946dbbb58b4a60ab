package pluginhost

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signDir vouches for the plugins of these names as they are.
func signDir(t *testing.T, dir string, key ed25519.PrivateKey, names ...string) {
	t.Helper()
	var plugins []pluginmanifest.Plugin
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, prefix+name))
		if err != nil {
			t.Fatal(err)
		}
		sum, files := sha256.Sum256(data), ""
		if pluginmanifest.Interpreted(bytes.NewReader(data)) {
			if files, err = pluginmanifest.SumFiles(filepath.Join(dir, prefix+name)); err != nil {
				t.Fatal(err)
			}
		}
		plugins = append(plugins, pluginmanifest.Plugin{Name: name, SHA256: hex.EncodeToString(sum[:]), FilesSHA256: files})
	}
	if err := pluginmanifest.Write(dir, plugins, key, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// Each plugin that nobody vouches for is refused, with its reason in the log,
// in the driver's info and in the metrics; its neighbour runs.
func TestRefusedPlugins(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	chmod := func(name string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil  func(*testing.T, string) // after the folder was signed
		key    ed25519.PrivateKey
		reason string // of envy; "" = it runs
		all    bool   // memory is refused as well
	}{
		"nothing wrong": {reason: "", spoil: func(*testing.T, string) {}},
		"unsigned":      {reason: reasonUnsigned, all: true, spoil: remove(pluginmanifest.Name)},
		"no signature":  {reason: reasonUnsigned, all: true, spoil: remove(pluginmanifest.SignatureName)},
		"wrong key":     {reason: reasonSignature, all: true, spoil: func(*testing.T, string) {}, key: newKey(t)},
		"changed manifest": {reason: reasonSignature, all: true, spoil: func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, pluginmanifest.Name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(data), "envy", "ENVY", 1)), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		"swapped":               {reason: reasonSwapped, spoil: func(t *testing.T, dir string) { t.Helper(); install(t, dir, "envy", []byte("x")) }},
		"missing entry":         {reason: reasonEntry, spoil: func(t *testing.T, dir string) { t.Helper(); signDir(t, dir, key, "memory") }},
		"writable by the group": {reason: reasonWritable, spoil: chmod(prefix+"envy", 0o775)},
		"writable by everybody": {reason: reasonWritable, spoil: chmod(prefix+"envy", 0o757)},
		"folder writable":       {reason: reasonWritable, all: true, spoil: chmod("", 0o777)},
		"foreign-owned":         {reason: reasonOwner, spoil: chown(prefix + "envy")},
		"folder foreign-owned":  {reason: reasonOwner, all: true, spoil: chown("")},
		"helper writable": {reason: reasonWritable, all: true, spoil: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Join(dir, "lib", "inner"), 0o755); err != nil {
				t.Fatal(err)
			}
			helper := filepath.Join("lib", "inner", "module.py")
			if err := os.WriteFile(filepath.Join(dir, helper), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			chmod(helper, 0o646)(t, dir)
		}},
		"helper a foreign link": {reason: reasonOwner, all: true, spoil: func(t *testing.T, dir string) {
			t.Helper()
			target := filepath.Join(t.TempDir(), "supervisor")
			if err := errors.Join(os.WriteFile(target, nil, 0o755), os.Chown(target, nobody, -1), os.Symlink(target, filepath.Join(dir, "nofx-supervisor"))); err != nil {
				t.Fatal(err)
			}
		}},
		"folder above writable": {reason: reasonWritable, all: true, spoil: chmod("..", 0o775)},
		"a link to a folder that all may write to": {reason: reasonWritable, spoil: func(t *testing.T, dir string) {
			t.Helper()
			elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
			plugin := filepath.Join(dir, prefix+"envy")
			if err := errors.Join(os.Mkdir(elsewhere, 0o755), os.Chmod(elsewhere, 0o777), os.Rename(plugin, filepath.Join(elsewhere, "envy")),
				os.Symlink(filepath.Join(elsewhere, "envy"), plugin)); err != nil {
				t.Fatal(err)
			}
		}},
		"a link to nothing":      {reason: "", spoil: func(t *testing.T, dir string) { t.Helper(); _ = os.Symlink("nowhere", filepath.Join(dir, "link")) }},
		"garbage as a signature": {reason: reasonSignature, all: true, spoil: garbage(pluginmanifest.SignatureName)},
		"oversized manifest":     {reason: reasonManifest, all: true, spoil: garbage(pluginmanifest.Name)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := &watcher{}
			r := start(t, []string{"memory", "envy"}, func(cfg *Config) {
				cfg.AllowUnsigned, cfg.ManifestKey, cfg.Observer = false, pluginmanifest.PublicOf(key), seen
				if c.key != nil {
					cfg.ManifestKey = pluginmanifest.PublicOf(c.key)
				}
				signDir(t, cfg.Dir, key, "memory", "envy")
				c.spoil(t, cfg.Dir)
			})
			if err := r.Ready(bg(t)); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"memory": "", "envy": c.reason}
			if c.all {
				want["memory"] = c.reason
			}
			for driver, reason := range want {
				if reason == "" {
					r.infoOf(t, driver, "healthy", healthy)
					continue
				}
				r.infoOf(t, driver, "refused", func(i wire.DriverInfo) bool {
					return !i.Healthy && i.Refused == reason && strings.HasPrefix(i.Message, "quarantined")
				})
				r.log.until(t, `"msg":"the plugin is refused","driver":"`+driver+`","reason":"`+reason+`"`)
			}
			if !c.all {
				r.echo(t, "memory")
			}
			if diff := cmp.Diff(want, seen.refusals("memory", "envy")); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(r.log.String(), `plugin started","driver":"envy"`) != (c.reason == "") {
				t.Errorf("envy was started, or was not")
			}
		})
	}
	if _, err := New(Config{Dir: t.TempDir(), SocketDir: t.TempDir()}); !step.Is(err, step.KindInvalid) {
		t.Errorf("neither a key nor unsigned: %v", err)
	}
}

// Whoever mends what was wrong need not wait, nor tell the host.
func TestMendedOwnership(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, path := range map[string]string{"plugin": prefix + "memory", "folder": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, []string{"memory"}, func(cfg *Config) {
				cfg.AllowUnsigned, cfg.ManifestKey = false, pluginmanifest.PublicOf(key)
				signDir(t, cfg.Dir, key, "memory")
				if err := os.Chmod(filepath.Join(cfg.Dir, path), 0o775); err != nil {
					t.Fatal(err)
				}
			})
			r.infoOf(t, "memory", "refused", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "can be written by others") })
			if err := os.Chmod(filepath.Join(r.cfg.Dir, path), 0o755); err != nil {
				t.Fatal(err)
			}
			r.infoOf(t, "memory", "healthy", healthy)
		})
	}
}

// nobody is a user that owns nothing here.
const nobody = 65534

func chown(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Chown(filepath.Join(dir, name), nobody, -1); err != nil {
			t.Fatal(err)
		}
	}
}

func garbage(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 2<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		if name == pluginmanifest.SignatureName {
			if err := os.Truncate(filepath.Join(dir, name), 100); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A manifest that comes late ends the quarantine.
func TestSignedLater(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	r := start(t, []string{"memory"}, func(cfg *Config) {
		cfg.AllowUnsigned, cfg.ManifestKey = false, pluginmanifest.PublicOf(key)
	})
	r.infoOf(t, "memory", "refused", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "no signed manifest") })
	signDir(t, r.cfg.Dir, key, "memory")
	r.infoOf(t, "memory", "healthy", healthy)
	r.echo(t, "memory")
}

// watcher is an Observer that keeps what it hears.
type watcher struct {
	mu      sync.Mutex
	started map[string]int
	died    map[string]int
	refused map[string]string
	states  map[string][2]bool // healthy, quarantined
}

func (w *watcher) PluginStarted(d string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	put(&w.started, d, w.started[d]+1)
}

func (w *watcher) PluginDied(d string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	put(&w.died, d, w.died[d]+1)
}

func (w *watcher) PluginRefused(d, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	put(&w.refused, d, reason)
}

func (w *watcher) PluginState(d string, healthy, quarantined bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	put(&w.states, d, [2]bool{healthy, quarantined})
}

func (w *watcher) PluginGone(d string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.states, d)
}

func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = v
}

func (w *watcher) refusals(names ...string) map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	for _, n := range names {
		all[n] = w.refused[n]
	}
	return all
}

func (w *watcher) counts(d string) (started, died int, state [2]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started[d], w.died[d], w.states[d]
}

func TestObserver(t *testing.T) {
	t.Parallel()
	seen := &watcher{}
	r := start(t, []string{"memory", "crash"}, func(cfg *Config) { cfg.Observer = seen })
	r.echo(t, "memory")
	r.infoOf(t, "crash", "quarantined", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
	if started, died, state := seen.counts("memory"); started != 1 || died != 0 || state != [2]bool{true, false} {
		t.Errorf("memory: started %d, died %d, state %v", started, died, state)
	}
	eventually(t, "crash is quarantined", func() bool { _, _, state := seen.counts("crash"); return state == [2]bool{false, true} })
	if started, died, state := seen.counts("crash"); started != 0 || died != r.cfg.QuarantineAfter+1 || state != [2]bool{false, true} {
		t.Errorf("crash: started %d, died %d, state %v", started, died, state)
	}
	r.stop()
	if _, _, state := seen.counts("memory"); state != [2]bool{} {
		t.Errorf("state %v after the end", state)
	}
}
