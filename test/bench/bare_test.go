package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
)

// bareVar makes the test binary a server that does nothing; see bare.
const bareVar = "NOFX_BENCH_BARE"

// serveBare answers everything as a claim of an empty queue, over HTTPS by
// net/http, with the certificate in a folder. It prints where it listens, and
// runs until it is killed.
func serveBare(dir string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("https://" + l.Addr().String())
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client sees it
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"leases":[]}`)
	})}
	return s.ServeTLS(l, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
}

// bare starts such a server as a process of its own.
func bare(b *testing.B) (c *client.Client, pid int) {
	b.Helper()
	dir := b.TempDir()
	_, _, roots := certificate(b, dir)
	cmd := exec.CommandContext(context.Background(), os.Args[0], "-test.run", "^$")
	cmd.Env = append(os.Environ(), bareVar+"="+dir)
	out, done, err := begin(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	var url string
	if _, err := fmt.Fscan(out, &url); err != nil {
		b.Fatal(err)
	}
	c, err = client.New(client.Options{BaseURL: url, Key: "nofx_w_bare", RootCAs: roots})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c, cmd.Process.Pid
}

// certificate makes one for loopback in dir, which is its own authority.
func certificate(b *testing.B, dir string) (certFile, keyFile string, roots *x509.CertPool) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, text := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}
