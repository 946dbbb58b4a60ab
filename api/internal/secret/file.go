package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/google/renameio/v2"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// maxFile is far more than a keyset of any age has.
const maxFile = 1 << 20

// Key is one of a file's.
type Key struct {
	ID      uint32
	Primary bool // it seals
}

// Load reads a keyset from a file that its owner alone can read. "" is no
// keyset: nil.
func Load(path string) (*Keys, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // a nil *Keys is a kind of its own
	}
	h, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Setting, err)
	}
	return newKeys(h)
}

// Create makes a file with one new key. One that is there stays, and is an
// error.
func Create(path string) (Key, error) {
	h, err := keyset.NewHandle(aead.XChaCha20Poly1305KeyTemplate()) // its nonces are long enough to be random for ever
	if err != nil {
		return Key{}, err
	}
	text, err := marshal(h)
	if err != nil {
		return Key{}, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Key{}, err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return Key{}, errors.Join(err, os.Remove(path))
	}
	all, err := list(h)
	if err != nil {
		return Key{}, err
	}
	return all[0], nil
}

// List gives the keys of a file, the oldest first.
func List(path string) ([]Key, error) {
	h, err := read(path)
	if err != nil {
		return nil, err
	}
	return list(h)
}

// Stage adds a new key to a file, which opens and does not seal yet: replicas
// that do not share the file must all have a key before one of them seals with
// it.
func Stage(path string) (Key, error) {
	var id uint32
	err := change(path, func(m *keyset.Manager, _ []Key) (err error) {
		id, err = m.Add(aead.XChaCha20Poly1305KeyTemplate())
		return err
	})
	return Key{ID: id}, err
}

// Rotate makes the newest key of a file the primary one: a staged one if there
// is one, or else a new one.
func Rotate(path string) (Key, error) {
	var id uint32
	err := change(path, func(m *keyset.Manager, have []Key) (err error) {
		newest := have[len(have)-1]
		if id = newest.ID; newest.Primary {
			if id, err = m.Add(aead.XChaCha20Poly1305KeyTemplate()); err != nil {
				return err
			}
		}
		return m.SetPrimary(id)
	})
	return Key{ID: id, Primary: true}, err
}

// Drop takes a key that is not the primary one out of a file. What is still
// sealed with it cannot be opened any more.
func Drop(path, name string) error {
	id, err := strconv.ParseUint(name, 16, 32)
	if err != nil || len(name) != 8 {
		return fmt.Errorf("%.40q is not the id of a key: nofx-api keys list prints them", name)
	}
	return change(path, func(m *keyset.Manager, have []Key) error {
		for _, k := range have {
			switch {
			case k.ID != uint32(id):
			case k.Primary:
				return fmt.Errorf("the key %s is the primary one: rotate first", name)
			default:
				return m.Delete(k.ID)
			}
		}
		return fmt.Errorf("there is no key %s in %s", name, path)
	})
}

// change rewrites a file, whole or not at all.
func change(path string, do func(*keyset.Manager, []Key) error) error {
	h, err := read(path)
	if err != nil {
		return err
	}
	have, err := list(h)
	if err != nil {
		return err
	}
	m := keyset.NewManagerFromHandle(h)
	if err := do(m, have); err != nil {
		return err
	}
	if h, err = m.Handle(); err != nil {
		return err
	}
	text, err := marshal(h)
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, text, 0o600, renameio.WithExistingPermissions())
}

func list(h *keyset.Handle) ([]Key, error) {
	var out []Key
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, err
		}
		out = append(out, Key{e.KeyID(), e.IsPrimary()})
	}
	return out, nil
}

func marshal(h *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&b)); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func read(path string) (*keyset.Handle, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold it up
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if err := private(f); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
	if err != nil { // the text may be quoted in it
		return nil, fmt.Errorf("%s holds no keyset: nofx-api keys new makes one", path)
	}
	return h, nil
}

// private refuses a file that others than root and its owner can read or
// change. Root's group may read it: so it looks when systemd has given a copy
// of root's to a service's user.
func private(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	at, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !ok || !mode.IsRegular():
		return fmt.Errorf("%s is no file", f.Name())
	case at.Uid != 0 && int64(at.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("%s must be root's or that of the user that runs this", f.Name())
	case mode.Perm()&0o037 != 0 || mode.Perm()&0o040 != 0 && at.Gid != 0:
		return fmt.Errorf("%s can be read or changed by others (mode %04o): chmod 600", f.Name(), mode.Perm())
	}
	return nil
}
