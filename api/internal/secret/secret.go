// Package secret seals what must not lie in clear in the database, and opens it
// again. It is the only place that knows the library that does so.
//
// What is sealed is bound to its place: tenant, table, row and column are
// authenticated with it, so that a ciphertext copied to another row, or to
// another tenant, does not open. A keyset has one primary key, which seals, and
// any number of older ones, which still open; each ciphertext names its key.
//
// The keys are in a file that only its owner can read, never in the database.
package secret

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Setting is what names the file with the keys.
const Setting = "NOFX_KEYSET_FILE"

// Place is where a ciphertext belongs.
type Place struct {
	Tenant, Table, Row, Column string
}

// bound is the place as what is authenticated. No part holds a NUL: Postgres
// has no text with one.
func (p Place) bound() []byte {
	return []byte(strings.Join([]string{"nofx", p.Tenant, p.Table, p.Row, p.Column}, "\x00"))
}

// Errors for operators and users; none has a secret in it.
var (
	// ErrNoKeyset is that there are no keys at all.
	ErrNoKeyset = errors.New("there is no keyset to seal it with: set " + Setting + " (nofx-api keys new FILE makes one)")
	// ErrChanged is that a ciphertext is not what was sealed in its place.
	ErrChanged = errors.New("what is sealed was changed, or copied from another row or tenant")
)

// Keys seals and opens. A nil *Keys is that of an API without a keyset: it
// refuses both. It is safe for concurrent use.
type Keys struct {
	box     tink.AEAD
	primary uint32
	has     map[uint32]bool
}

func newKeys(h *keyset.Handle) (*Keys, error) {
	primary, err := h.Primary()
	if err != nil {
		return nil, err
	}
	box, err := aead.New(h)
	if err != nil {
		return nil, err
	}
	k := &Keys{box: box, primary: primary.KeyID(), has: map[uint32]bool{}}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, err
		}
		k.has[e.KeyID()] = e.KeyStatus() == keyset.Enabled
	}
	return k, nil
}

// Ready is nil when there are keys, ErrNoKeyset otherwise.
func (k *Keys) Ready() error {
	if k == nil {
		return ErrNoKeyset
	}
	return nil
}

// Seal encrypts plain for its place with the primary key.
func (k *Keys) Seal(at Place, plain []byte) ([]byte, error) {
	if k == nil {
		return nil, ErrNoKeyset
	}
	return k.box.Encrypt(plain, at.bound())
}

// Open decrypts what was sealed for this place. Its errors are for operators.
func (k *Keys) Open(at Place, sealed []byte) ([]byte, error) {
	id, ok := KeyOf(sealed)
	switch {
	case !ok:
		return nil, ErrChanged
	case k == nil:
		return nil, fmt.Errorf("it is sealed with the key %s, and this API has no keyset: set %s", Name(id), Setting)
	case !k.has[id]:
		return nil, fmt.Errorf("it is sealed with the key %s, which the keyset (%s) does not have", Name(id), Setting)
	}
	plain, err := k.box.Decrypt(sealed, at.bound())
	if err != nil {
		return nil, ErrChanged // the library says no more, and must not
	}
	return plain, nil
}

// Current reports whether something is sealed with the primary key.
func (k *Keys) Current(sealed []byte) bool {
	id, ok := KeyOf(sealed)
	return ok && k != nil && id == k.primary
}

// prefix is what a ciphertext begins with: a version and its key's id.
const prefix = 5

// KeyOf is the id of the key that something was sealed with; ok is false when
// it is no ciphertext.
func KeyOf(sealed []byte) (id uint32, ok bool) {
	if len(sealed) <= prefix || sealed[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:prefix]), true
}

// Name is a key's id as people see it.
func Name(id uint32) string { return fmt.Sprintf("%08x", id) }
