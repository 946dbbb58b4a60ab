package pluginmanifest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// signed is a folder with a manifest of two plugins.
func signed(t *testing.T, key ed25519.PrivateKey) (string, Manifest) {
	t.Helper()
	dir := t.TempDir()
	want := Manifest{Format: 1, Plugins: []Plugin{
		{Name: "a", Version: "1.0", SHA256: sumOf("a"), ProtocolVersions: []int{1}},
		{Name: "b", Version: "2.0", SHA256: sumOf("b"), ProtocolVersions: []int{1, 2}},
	}}
	if err := Write(dir, []Plugin{want.Plugins[1], want.Plugins[0]}, key, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	return dir, want
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	dir, want := signed(t, key)
	public, err := ParsePublicKey(PublicOf(key).Encode())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir, public)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p, err := got.Check("b", sha256.Sum256([]byte("b")), ""); err != nil || p.Version != "2.0" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := got.Check("b", sha256.Sum256([]byte("x")), ""); !errors.Is(err, ErrChanged) {
		t.Errorf("another file: %v", err)
	}
	if _, err := got.Check("c", sha256.Sum256([]byte("c")), ""); !errors.Is(err, ErrMissingEntry) {
		t.Errorf("no entry: %v", err)
	}
}

func TestBadFolders(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	edit := func(name, from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(data), from, to, 1)
			if changed == string(data) {
				t.Fatalf("%s has no %q", name, from)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	resign := func(body string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := errors.Join(
				os.WriteFile(filepath.Join(dir, Name), []byte(body), 0o644),
				os.WriteFile(filepath.Join(dir, SignatureName), sign([]byte(body), key, time.Now()), 0o644),
			); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, string)
		key   ed25519.PrivateKey
		want  error
	}{
		"no manifest":             {func(_ *testing.T, d string) { _ = os.Remove(filepath.Join(d, Name)) }, key, ErrNoManifest},
		"no signature":            {func(_ *testing.T, d string) { _ = os.Remove(filepath.Join(d, SignatureName)) }, key, ErrNoManifest},
		"changed manifest":        {edit(Name, "2.0", "2.1"), key, ErrSignature},
		"changed trusted comment": {edit(SignatureName, "timestamp:1", "timestamp:2"), key, ErrSignature},
		"another algorithm":       {edit(SignatureName, "\nRW", "\nRU"), key, ErrSignature},
		"empty signature":         {func(_ *testing.T, d string) { _ = os.Truncate(filepath.Join(d, SignatureName), 0) }, key, ErrSignature},
		"another key":             {func(*testing.T, string) {}, newKey(t), ErrSignature},
		"signed, not JSON":        {resign("nofx"), key, ErrBadManifest},
		"signed, another format":  {resign(`{"format":2,"plugins":[]}`), key, ErrBadManifest},
		"signed, a bad name":      {resign(`{"format":1,"plugins":[{"name":"../x"}]}`), key, ErrBadManifest},
		"signed, a name twice":    {resign(`{"format":1,"plugins":[{"name":"x"},{"name":"x"}]}`), key, ErrBadManifest},
		"too large":               {func(_ *testing.T, d string) { _ = os.Truncate(filepath.Join(d, Name), maxFile+1) }, key, ErrBadManifest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := signed(t, key)
			c.spoil(t, dir)
			if m, err := Read(dir, PublicOf(c.key)); !errors.Is(err, c.want) || len(m.Plugins) > 0 {
				t.Errorf("%+v, %v; want %v", m, err, c.want)
			}
		})
	}
	dir, _ := signed(t, key)
	if _, err := Read(dir, PublicKey{}); !errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
}

// minisign 0.11 made this key and signed this manifest with it (-l).
func TestMinisignsOwn(t *testing.T) {
	t.Parallel()
	key, err := ReadPublicKey("testdata/minisign.pub")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read("testdata/plugins", key)
	if err != nil || len(m.Plugins) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestPrivateKeyFile(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	data, err := EncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPrivateKey(path); err != nil || !got.Equal(key) {
		t.Errorf("%v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivateKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	if err := errors.Join(os.WriteFile(path, PublicOf(key).Encode(), 0o600), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivateKey(path); err == nil {
		t.Error("a public key is taken for a private one")
	}
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		Prefix + "b": 0o755, Prefix + "a-2": 0o755, Prefix + "plain": 0o644, Prefix + "Upper": 0o755, Prefix: 0o755, "nofx-supervisor": 0o755,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, Prefix+"folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Discover(dir)
	if diff := cmp.Diff([]string{"a-2", "b"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
