package egress_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

func TestAllow(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	asked, _ := w.Names(t, map[string][]string{
		publicName: {testnet.Server, testnet.Server6}, "evil.example.net": {testnet.OtherServer},
		"inner.example.com": {testnet.Private}, "meta.example.com": {testnet.Metadata, testnet.Server},
	})
	for _, a := range []string{testnet.Server + ":5000", testnet.Server + ":22", testnet.OtherServer + ":5000", testnet.Private + ":5000", testnet.Metadata + ":5000"} {
		w.Greeter(t, a)
	}
	b := enter(t, w, egress.Policy{Allow: []string{"*.example.com:5000", testnet.OtherServer + ":22", testnet.Private + ":5000"}})

	// Before the name was asked for, its address is one like any other.
	if got, err := b.greeting(testnet.Server + ":5000"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("before the name: %q, %v", got, err)
	}
	got, err := b.lookup(publicName)
	if err != nil || len(got) != 2 {
		t.Fatalf("%s: %v, %v", publicName, got, err)
	}
	if got, err := b.greeting(testnet.Server + ":5000"); err != nil {
		t.Errorf("after the name: %q, %v", got, err)
	}
	for _, a := range []string{testnet.Server + ":22", testnet.OtherServer + ":5000", testnet.Private + ":5000"} {
		if got, err := b.greeting(a); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %q, %v; want it refused", a, got, err)
		}
	}
	before := asked.Load()
	for _, name := range []string{"evil.example.net", "example.com", "secret.evil.example.net", "localhost"} {
		if got, err := b.lookup(name); err == nil {
			t.Errorf("%s is told: %v", name, got)
		}
	}
	if asked.Load() != before {
		t.Error("a name that is not in the list was asked for outside")
	}
	// A name that leads inside tells nothing of it.
	if got, err := b.lookup("inner.example.com"); err == nil {
		t.Errorf("inner.example.com: %v", got)
	}
	if got, err := b.lookup("meta.example.com"); err != nil || len(got) != 1 || got[0] != testnet.Server {
		t.Errorf("meta.example.com: %v, %v", got, err)
	}
	if got, err := b.greeting(testnet.Metadata + ":5000"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("metadata: %q, %v", got, err)
	}
}

func TestRebinding(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	_, set := w.Names(t, map[string][]string{publicName: {testnet.Server}})
	w.Greeter(t, testnet.Server+":5000")
	reached := w.Greeter(t, testnet.Private+":5000")
	b := enter(t, w, egress.Policy{Allow: []string{publicName + ":5000"}})
	if got, err := b.lookup(publicName); err != nil {
		t.Fatal(got, err)
	}
	set(map[string][]string{publicName: {testnet.Private}})
	if got, err := b.lookup(publicName); err == nil {
		t.Errorf("rebound: %v", got)
	}
	if got, err := b.greeting(testnet.Private + ":5000"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("rebound: %q, %v", got, err)
	}
	if reached.Load() != 0 {
		t.Error("the private address was reached")
	}
	// What is told of the name says nothing of the host's network.
	if u := b.use(); u.Refusal != "the name "+publicName+" leads to an address that is not on the Internet, and no policy of the tenant names it" {
		t.Errorf("use %+v", u)
	}
}

func TestRebindingToException(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{publicName: {testnet.Private}})
	reached := w.Greeter(t, testnet.Private+":5432")
	private := []string{"10.20.0.0/16:5432"}
	b := enter(t, w, egress.Policy{Allow: []string{publicName + ":5432"}, Private: private})
	if got, err := b.lookup(publicName); err == nil {
		t.Errorf("it is told: %v", got)
	}
	if got, err := b.greeting(testnet.Private + ":5432"); !errors.Is(err, unix.ECONNREFUSED) || reached.Load() != 0 {
		t.Errorf("%q, %v; want it refused", got, err)
	}
	if u := b.use(); u.Refusal != "the name "+publicName+" leads to a private address, which the step's list does not name" {
		t.Errorf("use %+v", u)
	}
	for _, p := range []egress.Policy{
		{Allow: []string{publicName + ":5432", testnet.Private + ":5432"}, Private: private}, {Open: true, Private: private},
	} {
		b := enter(t, w, p)
		if got, err := b.lookup(publicName); err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := b.greeting(testnet.Private + ":5432"); err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestServerName(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{publicName: {testnet.Server}})
	cert := certificate(t)
	l := tls.NewListener(w.Listen(t, testnet.Server+":443"), &tls.Config{Certificates: []tls.Certificate{cert}})
	go serve(l, func(c net.Conn) { _, _ = io.WriteString(c, "secret\n") })
	go serve(w.Listen(t, testnet.Server+":80"), func(c net.Conn) {
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
		}
	})
	b := enter(t, w, egress.Policy{Allow: []string{publicName}})
	if _, err := b.lookup(publicName); err != nil {
		t.Fatal(err)
	}
	hello := func(name string) (string, error) {
		c, err := b.dial("tcp", testnet.Server+":443")
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return bufio.NewReader(tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})).ReadString('\n')
	}
	if got, err := hello(publicName); got != "secret\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"evil.example.net", ""} {
		if got, err := hello(name); err == nil {
			t.Errorf("TLS for %q: %q", name, got)
		}
	}
	get := func(request string) string {
		c, err := b.dial("tcp", testnet.Server+":80")
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, request)
		got, _ := io.ReadAll(c)
		return string(got)
	}
	if got := get("GET /x HTTP/1.1\r\nHost: API.example.com:80\r\n\r\n"); !strings.Contains(got, "GET /x") {
		t.Errorf("HTTP: %q", got)
	}
	for _, request := range []string{"GET /x HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "GET http://evil.example.net/ HTTP/1.1\r\nHost: " + publicName + "\r\n\r\n", "SSH-2.0-x\r\n\r\n",
		// Servers differ in which of two names they take.
		"GET http://" + publicName + "/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "GET /x HTTP/1.1\r\nHost: " + publicName + "\r\nHost: evil.example.net\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: " + publicName + "\r\nHost : evil.example.net\r\n\r\n", "GET /x HTTP/1.0\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: " + publicName + "\r\nX: y\rHost: evil.example.net\r\n\r\n"} {
		if got := get(request); strings.Contains(got, "200") {
			t.Errorf("%q: %q", request, got)
		}
	}
}

func TestManyLookups(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{publicName: {testnet.Server}})
	b := enter(t, w, egress.Policy{Allow: []string{publicName}})
	for i := range 200 {
		if _, err := b.lookup(publicName); err != nil {
			t.Fatalf("lookup %d: %v", i, err)
		}
	}
}

func TestRefusalIsText(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Names(t, map[string][]string{publicName: {testnet.Server}})
	w.Greeter(t, testnet.Server+":80")
	for _, host := range []string{strings.Repeat("é", 200), "x" + strings.Repeat("é", 200), "a\x00b", "\xff", "a\x1b[2J"} {
		b := enter(t, w, egress.Policy{Allow: []string{publicName}})
		if _, err := b.lookup(publicName); err != nil {
			t.Fatal(err)
		}
		c, err := b.dial("tcp", testnet.Server+":80")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		_, _ = io.ReadAll(c)
		_ = c.Close()
		text := b.use().Refusal
		if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%q: %q", host, text)
		}
	}
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{publicName}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
