package pluginmanifest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// The forms of minisign: public key and signature begin with the algorithm
// and the key's id. "Ed" signs the file as it is.
const (
	algorithm = "Ed"
	prehashed = "ED"
	idSize    = 8
	comment   = "untrusted comment: "
	trusted   = "trusted comment: "
)

// PublicKey verifies manifests. Its zero value verifies none.
type PublicKey struct {
	id  [idSize]byte
	key ed25519.PublicKey
}

// PublicOf is the public half of a key.
func PublicOf(key ed25519.PrivateKey) PublicKey {
	p := PublicKey{key: key.Public().(ed25519.PublicKey)}
	sum := sha256.Sum256(p.key)
	copy(p.id[:], sum[:])
	return p
}

// IsZero reports whether there is no key.
func (p PublicKey) IsZero() bool { return len(p.key) == 0 }

// ID is the key's short name.
func (p PublicKey) ID() string { return fmt.Sprintf("%X", p.id) }

// Encode gives the key's file, in minisign's form.
func (p PublicKey) Encode() []byte {
	raw := append(append([]byte(algorithm), p.id[:]...), p.key...)
	return fmt.Appendf(nil, "%snofx plugin key %s\n%s\n", comment, p.ID(), base64.StdEncoding.EncodeToString(raw))
}

// ParsePublicKey reads what Encode or minisign wrote; the comment may be left
// out.
func ParsePublicKey(data []byte) (PublicKey, error) {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(lines[len(lines)-1]))
	if err != nil || len(lines) > 2 || len(raw) != len(algorithm)+idSize+ed25519.PublicKeySize || string(raw[:2]) != algorithm {
		return PublicKey{}, step.Errorf(step.KindInvalid, "it is not a public key of minisign's form")
	}
	p := PublicKey{key: raw[2+idSize:]}
	copy(p.id[:], raw[2:])
	return p, nil
}

// ReadPublicKey reads a public key's file.
func ReadPublicKey(path string) (PublicKey, error) {
	data, err := readSmall(path)
	if err != nil {
		return PublicKey{}, step.Errorf(step.KindInvalid, "public key: %w", err)
	}
	p, err := ParsePublicKey(data)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: %w", path, err)
	}
	return p, nil
}

// verify checks a signature's file: the signature of data, and the one over it
// and its trusted comment.
func (p PublicKey) verify(data, sigFile []byte) error {
	lines := strings.Split(strings.TrimRight(string(sigFile), "\r\n"), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], comment) || !strings.HasPrefix(lines[2], trusted) {
		return errors.New("it is not of minisign's form")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(lines[1]))
	if err != nil || len(raw) != 2+idSize+ed25519.SignatureSize {
		return errors.New("it is not of minisign's form")
	}
	global, err := base64.StdEncoding.DecodeString(strings.TrimSpace(lines[3]))
	if err != nil {
		return errors.New("it is not of minisign's form")
	}
	sig := raw[2+idSize:]
	switch said := strings.TrimRight(strings.TrimPrefix(lines[2], trusted), "\r"); {
	case string(raw[:2]) == prehashed:
		return errors.New("it is over a hash of the file; sign with nofx drivers sign or minisign -l")
	case string(raw[:2]) != algorithm || p.IsZero():
		return errors.New("it is of an algorithm that is not known")
	case !bytes.Equal(raw[2:2+idSize], p.id[:]):
		return fmt.Errorf("it is of key %X, not %X", raw[2:2+idSize], p.id)
	case !ed25519.Verify(p.key, data, sig), !ed25519.Verify(p.key, append(bytes.Clone(sig), said...), global):
		return errors.New("it is not over this file")
	}
	return nil
}

// sign gives the signature's file for data.
func sign(data []byte, key ed25519.PrivateKey, now time.Time) []byte {
	p := PublicOf(key)
	sig := ed25519.Sign(key, data)
	said := fmt.Sprintf("timestamp:%d\tfile:%s", now.Unix(), Name)
	raw := append(append([]byte(algorithm), p.id[:]...), sig...)
	global := ed25519.Sign(key, append(bytes.Clone(sig), said...))
	enc := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, "%ssigned by nofx, key %s\n%s\n%s%s\n%s\n", comment, p.ID(), enc(raw), trusted, said, enc(global))
}

// EncodePrivateKey gives a private key's file: PKCS #8 in PEM.
func EncodePrivateKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ReadPrivateKey reads a private key's file, which nobody else may read.
func ReadPrivateKey(path string) (ed25519.PrivateKey, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, step.Errorf(step.KindInvalid, "key %s: others can read it; type: chmod 600 %s", path, path)
	}
	data, err := readSmall(path)
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "key: %w", err)
	}
	if block, _ := pem.Decode(data); block != nil && block.Type == "PRIVATE KEY" {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, step.Errorf(step.KindInvalid, "key %s: it is not an ed25519 private key in PEM", path)
}
