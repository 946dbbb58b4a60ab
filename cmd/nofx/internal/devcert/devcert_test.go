package devcert_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/cmd/nofx/internal/devcert"
)

func TestEnsureServesClients(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	files, err := devcert.Ensure(dir, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca-key.pem", "server-key.pem"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
		}
	}

	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	defer srv.Close()

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(read(t, files.CA))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	res, err := client.Get(srv.URL)
	if err != nil {
		t.Fatalf("a client with the CA: %v", err)
	}
	res.Body.Close()
}

func TestEnsureKeepsTheAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	ensure := func(at time.Time, hosts ...string) string {
		files, err := devcert.Ensure(dir, hosts, at)
		if err != nil {
			t.Fatal(err)
		}
		return string(read(t, files.CA))
	}
	first := ensure(now)
	if ensure(now.Add(time.Hour)) != first {
		t.Error("the authority changed without need")
	}
	wider := ensure(now, "10.1.2.3")
	if wider == first {
		t.Error("an authority that does not cover the host was kept")
	}
	if ensure(now.Add(360*24*time.Hour), "10.1.2.3") == wider {
		t.Error("an authority about to expire was kept")
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(now)
}

// A system that runs on for months after its start is still reached.
func TestServerLastsAsLongAsItsAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made := time.Now()
	for _, start := range []time.Time{made, made.Add(300 * 24 * time.Hour)} {
		files, err := devcert.Ensure(dir, nil, start)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(read(t, files.CA))
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost", CurrentTime: start.Add(60 * 24 * time.Hour)}); err != nil {
			t.Errorf("60 days after %v: %v", start, err)
		}
	}
}

// A certificate for a foreign name must not pass, even if the key leaks.
func TestAuthorityIsConstrained(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files, err := devcert.Ensure(dir, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(read(t, files.CA))
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Errorf("localhost: %v", err)
	}
	ca, err := tls.LoadX509KeyPair(files.CA, filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := &x509.Certificate{
		SerialNumber: pair.Leaf.SerialNumber, NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter,
		DNSNames: []string{"bank.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, foreign, ca.Leaf, pair.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "bank.example"}); err == nil {
		t.Error("the development CA vouches for bank.example")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
