// Package devcert makes the certificates of a local NOFX: a development
// certificate authority that stays with the data folder, and a server
// certificate signed by it, made anew at each start. That one is good as long
// as its authority, which is two months at least: whoever keeps the system
// running does not start it each month.
//
// The authority's key never leaves its folder (mode 0600) and the authority
// is good for this machine only: its name constraints admit the local names
// and addresses that it was made for, and nothing else.
package devcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

const (
	caLife     = 365 * 24 * time.Hour
	caRenew    = 60 * 24 * time.Hour // made anew when it has less than this left
	clockSlack = time.Hour
)

// Files are the paths of the certificates in PEM.
type Files struct {
	CA   string // for clients
	Cert string // the server's
	Key  string // the server's, mode 0600
}

// Ensure keeps an authority in dir, makes a new server certificate for hosts
// (names or addresses) and returns the paths. An authority that does not
// cover the hosts, is damaged or is about to expire is replaced.
func Ensure(dir string, hosts []string, now time.Time) (Files, error) {
	files := Files{
		CA:   filepath.Join(dir, "ca.pem"),
		Cert: filepath.Join(dir, "server.pem"),
		Key:  filepath.Join(dir, "server-key.pem"),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, err
	}
	names := subjects(hosts)
	ca, caKey, err := load(files.CA, filepath.Join(dir, "ca-key.pem"))
	if err != nil || !good(ca, names, now) {
		if ca, caKey, err = newAuthority(dir, files.CA, names, now); err != nil {
			return files, fmt.Errorf("development CA: %w", err)
		}
	}
	if err := newServer(files, ca, caKey, names, now); err != nil {
		return files, fmt.Errorf("server certificate: %w", err)
	}
	return files, nil
}

type sans struct {
	dns []string
	ips []net.IP
}

// subjects are the hosts and the names of loopback, each once.
func subjects(hosts []string) sans {
	var s sans
	seen := map[string]bool{}
	for _, h := range append([]string{"localhost", "127.0.0.1", "::1"}, hosts...) {
		if h == "" || seen[h] {
			continue
		}
		seen[h] = true
		ip := net.ParseIP(h)
		switch {
		case ip == nil:
			s.dns = append(s.dns, h)
		case !ip.IsUnspecified():
			s.ips = append(s.ips, ip)
		}
	}
	return s
}

func (s sans) networks() []*net.IPNet {
	var nets []*net.IPNet
	for _, ip := range s.ips {
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		bits := 8 * len(ip)
		nets = append(nets, &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)})
	}
	return nets
}

func good(ca *x509.Certificate, names sans, now time.Time) bool {
	if now.Before(ca.NotBefore) || now.Add(caRenew).After(ca.NotAfter) {
		return false
	}
	for _, n := range names.networks() {
		covered := false
		for _, have := range ca.PermittedIPRanges {
			covered = covered || have.String() == n.String()
		}
		if !covered {
			return false
		}
	}
	for _, d := range names.dns {
		covered := false
		for _, have := range ca.PermittedDNSDomains {
			covered = covered || have == d
		}
		if !covered {
			return false
		}
	}
	return true
}

func newAuthority(dir, certPath string, names sans, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{CommonName: "NOFX development CA " + serial.Text(16)[:8]},
		NotBefore:                   now.Add(-clockSlack),
		NotAfter:                    now.Add(caLife),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         names.dns,
		PermittedIPRanges:           names.networks(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if err := writeKey(filepath.Join(dir, "ca-key.pem"), key); err != nil {
		return nil, nil, err
	}
	if err := writePEM(certPath, "CERTIFICATE", der, 0o644); err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func newServer(files Files, ca *x509.Certificate, caKey crypto.Signer, names sans, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "nofx-api"},
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     names.dns,
		IPAddresses:  names.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	if err := writeKey(files.Key, key); err != nil {
		return err
	}
	return writePEM(files.Cert, "CERTIFICATE", der, 0o644)
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil // never zero, always 127 bits
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der, 0o600)
}

func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	return renameio.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func load(certPath, keyPath string) (*x509.Certificate, crypto.Signer, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, nil, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, errors.New("no PEM block")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("key and certificate do not match")
	}
	return cert, key, nil
}
