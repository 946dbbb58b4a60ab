package secret_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/api/internal/secret"
)

func fileOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyset.json")
	if _, err := secret.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *secret.Keys {
	t.Helper()
	k, err := secret.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var here = secret.Place{Tenant: "acme", Table: "step", Row: "step_1", Column: "sealed"}

// What is sealed opens in its place and nowhere else, and not when it was
// changed.
func TestPlace(t *testing.T) {
	t.Parallel()
	k := load(t, fileOf(t))
	sealed, err := k.Seal(here, []byte("hunter2"))
	if err != nil || bytes.Contains(sealed, []byte("hunter2")) {
		t.Fatal(err)
	}
	if plain, err := k.Open(here, sealed); err != nil || string(plain) != "hunter2" {
		t.Fatalf("%q %v", plain, err)
	}
	for name, at := range map[string]secret.Place{
		"another tenant": {"other", "step", "step_1", "sealed"}, "another table": {"acme", "step_dlq", "step_1", "sealed"},
		"another row": {"acme", "step", "step_2", "sealed"}, "another column": {"acme", "step", "step_1", "inputs"},
		"parts moved": {"acme", "step\x00step_1", "", "sealed"},
	} {
		if plain, err := k.Open(at, sealed); !errors.Is(err, secret.ErrChanged) {
			t.Errorf("%s: %q %v", name, plain, err)
		}
	}
	for i := range sealed {
		other := bytes.Clone(sealed)
		other[i] ^= 1
		if _, err := k.Open(here, other); err == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
	}
	for _, short := range [][]byte{nil, {1}, sealed[:5], sealed[:10]} {
		if _, err := k.Open(here, short); !errors.Is(err, secret.ErrChanged) {
			t.Errorf("%d bytes: %v", len(short), err)
		}
	}
}

// Keys rotate: the new one seals, the old one opens until it is dropped.
func TestRotation(t *testing.T) {
	t.Parallel()
	path := fileOf(t)
	one := load(t, path)
	old, err := one.Seal(here, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	staged, err := secret.Stage(path)
	if err != nil {
		t.Fatal(err)
	}
	if between, _ := load(t, path).Seal(here, nil); !one.Current(between) {
		t.Error("a staged key seals")
	}
	next, err := secret.Rotate(path)
	if err != nil || next.ID != staged.ID {
		t.Fatalf("%v %v, staged was %v", next, err, staged)
	}
	two := load(t, path)
	fresh, err := two.Seal(here, []byte("hunter3"))
	if err != nil || !two.Current(fresh) || two.Current(old) {
		t.Fatal("the new key does not seal", err)
	}
	for sealed, want := range map[string]string{string(old): "hunter2", string(fresh): "hunter3"} {
		if plain, err := two.Open(here, []byte(sealed)); err != nil || string(plain) != want {
			t.Errorf("%q %v", plain, err)
		}
	}
	if _, err := one.Open(here, fresh); err == nil || !strings.Contains(err.Error(), secret.Name(next.ID)) || !strings.Contains(err.Error(), secret.Setting) {
		t.Errorf("a key that is missing is not named: %v", err)
	}
	list, err := secret.List(path)
	if err != nil || len(list) != 2 || list[0].Primary || !list[1].Primary {
		t.Fatalf("%v %v", list, err)
	}
	for name, want := range map[string]string{secret.Name(next.ID): "primary", "00000000": "no key", "x": "not the id"} {
		if err := secret.Drop(path, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("drop %s: %v", name, err)
		}
	}
	if err := secret.Drop(path, secret.Name(list[0].ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, path).Open(here, old); err == nil {
		t.Error("what a dropped key sealed opens")
	}
	if third, err := secret.Rotate(path); err != nil || third.ID == next.ID {
		t.Errorf("%v %v", third, err)
	}
}

func TestWithoutKeyset(t *testing.T) {
	t.Parallel()
	none, err := secret.Load("")
	if err != nil || none != nil {
		t.Fatal(none, err)
	}
	if _, err := none.Seal(here, []byte("x")); !errors.Is(err, secret.ErrNoKeyset) {
		t.Error(err)
	}
	if err := none.Ready(); err == nil || !strings.Contains(err.Error(), secret.Setting) {
		t.Error(err)
	}
	sealed, err := load(t, fileOf(t)).Seal(here, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Open(here, sealed); err == nil || !strings.Contains(err.Error(), secret.Setting) {
		t.Error(err)
	}
}

// A file that others could have read is refused, with what to do; so is what is
// no keyset, without a word of it.
func TestFile(t *testing.T) {
	t.Parallel()
	path := fileOf(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	if _, err := secret.Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a keyset was written over: %v", err)
	}
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o440: true, 0o644: false, 0o660: false, 0o604: false, 0o610: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := secret.Load(path)
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	// The tests run as root, whose files it accepts, and its group.
	for name, to := range map[string]struct{ uid, gid int }{"another user's": {12345, 0}, "another group's": {0, 12345}} {
		if err := errors.Join(os.Chown(path, to.uid, to.gid), os.Chmod(path, 0o640)); err != nil {
			t.Fatal(err)
		}
		if _, err := secret.Load(path); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
	if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	load(t, path)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte(`{"key":"hunter2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.Load(other); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "holds no keyset") {
		t.Error(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := secret.Load(path); err == nil || !strings.Contains(err.Error(), secret.Setting) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
