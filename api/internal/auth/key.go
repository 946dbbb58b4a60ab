// Package auth makes API keys and tells from a key who asks.
//
// A key looks like nofx_u_<43 base62><6 base62>: the role, 256 random bits
// and a CRC32 of what stands before it, so that a mistyped key is refused
// without a look at the database, and so that scanners can find leaked ones.
// The database has the key's sha256 only.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// Role says which endpoints a key opens.
type Role string

const (
	User     Role = "user"
	Worker   Role = "worker"
	Operator Role = "operator" // a user who also looks after what all tenants share
)

const (
	digits    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretLen = 43 // base62 digits of 32 bytes
	sumLen    = 6  // base62 digits of a CRC32
)

// Key is a new key. Text is shown once; Hash is what is stored.
type Key struct {
	Text string
	Hash []byte
}

// NewKey makes a key.
func NewKey(role Role) (Key, error) {
	prefix, err := prefixOf(role)
	if err != nil {
		return Key{}, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	text := prefix + base62(new(big.Int).SetBytes(secret), secretLen)
	text += checksum(text)
	return Key{Text: text, Hash: hash(text)}, nil
}

func prefixOf(role Role) (string, error) {
	switch role {
	case User:
		return "nofx_u_", nil
	case Worker:
		return "nofx_w_", nil
	case Operator:
		return "nofx_o_", nil
	}
	return "", step.Errorf(step.KindInvalid, "role %q is none of user, worker and operator", role)
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func checksum(text string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(text)))), sumLen)
}

func base62(n *big.Int, width int) string {
	out := make([]byte, width)
	base, digit := big.NewInt(int64(len(digits))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = digits[digit.Int64()]
	}
	return string(out)
}

// wellFormed reports whether text can be a key at all.
func wellFormed(text string) bool {
	const prefix = len("nofx_u_")
	if len(text) != prefix+secretLen+sumLen || !strings.HasPrefix(text, "nofx_u_") && !strings.HasPrefix(text, "nofx_w_") && !strings.HasPrefix(text, "nofx_o_") {
		return false
	}
	body := text[:len(text)-sumLen]
	return checksum(body) == text[len(text)-sumLen:]
}
