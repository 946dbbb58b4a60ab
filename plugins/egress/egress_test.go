package egress_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

// gateway is where the tests' gateway program lies.
var gateway string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nofx-egress")
	if err != nil {
		panic(err)
	}
	gateway = filepath.Join(dir, "nofx-egress")
	build := exec.Command("go", "build", "-o", gateway, "./cmd/nofx-egress")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// box is a sandbox as far as its network goes.
type box struct {
	t     testing.TB
	world *testnet.Net
	dir   string
	pid   int
	ns    string
}

// enter makes a sandbox with a gateway in a world.
func enter(t testing.TB, w *testnet.Net, p egress.Policy) *box {
	t.Helper()
	b := &box{t: t, world: w, dir: t.TempDir()}
	b.sleep()
	_, err := testnet.Within(t, w.Host(), func() (struct{}, error) {
		h, err := egress.NewHost(gateway, []string{testnet.DNS + ":53"})
		if err == nil {
			err = h.Start(t.Context(), egress.Sandbox{Dir: b.dir, PID: b.pid, Supervisor: b.pid, UID: 1900000001, Policy: p})
		}
		return struct{}{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := egress.Stop(context.WithoutCancel(t.Context()), b.dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

// sleep starts the sandbox's process.
func (b *box) sleep() {
	b.t.Helper()
	sleep := exec.Command("unshare", "--net", "sleep", "300")
	if err := sleep.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _, _ = sleep.Process.Kill(), sleep.Wait() })
	b.pid = sleep.Process.Pid
	b.ns = "/proc/" + strconv.Itoa(b.pid) + "/ns/net"
	b.awaitNamespace()
}

// awaitNamespace waits until unshare has made it.
func (b *box) awaitNamespace() {
	b.t.Helper()
	own, err := os.Readlink("/proc/thread-self/ns/net") // the main thread may be elsewhere
	if err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if got, err := os.Readlink(b.ns); err == nil && got != own {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal("no namespace")
		}
	}
}

func (b *box) dial(network, address string) (net.Conn, error) {
	b.t.Helper()
	return testnet.Dial(b.t, b.ns, network, address)
}

// try is dial for what nobody answers.
func (b *box) try(address string) (net.Conn, error) {
	return testnet.Within(b.t, b.ns, func() (net.Conn, error) { return net.DialTimeout("tcp", address, 500*time.Millisecond) })
}

// lookup asks the sandbox's name server.
func (b *box) lookup(name string) ([]string, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return b.dial(network, egress.Resolver+":53")
	}}
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	return r.LookupHost(ctx, name+".")
}

// greeting is what a server says first, or why there was nothing.
func (b *box) greeting(address string) (string, error) {
	b.t.Helper()
	return greeting(b.dial("tcp", address))
}

func greeting(c net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func (b *box) use() egress.Use {
	b.t.Helper()
	u, err := egress.ReadUse(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

const publicName = "api.example.com"

// What nobody may call, each with a server that would answer.
var forbidden = []string{
	testnet.Metadata + ":80", "[" + testnet.Metadata6 + "]:80", testnet.Alibaba + ":80", testnet.Azure + ":80",
	testnet.Private + ":5432", testnet.Private2 + ":80", testnet.Private3 + ":443",
}

func TestOpen(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	public := []string{testnet.Server + ":80", testnet.Server + ":8443", "[" + testnet.Server6 + "]:443"}
	for _, a := range public {
		w.Greeter(t, a)
	}
	reached := map[string]func() int64{}
	for _, a := range forbidden {
		n := w.Greeter(t, a)
		reached[a] = n.Load
	}
	b := enter(t, w, egress.Policy{Open: true})
	for _, a := range public {
		if got, err := b.greeting(a); got != "hello from "+a+"\n" {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
	for _, a := range forbidden {
		// The servers are there: the host reaches them.
		if got, err := greeting(testnet.Dial(t, w.Host(), "tcp", a)); err != nil {
			t.Errorf("%s from the host: %q, %v", a, got, err)
		}
		before := reached[a]()
		if got, err := b.greeting(a); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %q, %v; want it refused", a, got, err)
		}
		if reached[a]() != before {
			t.Errorf("%s was reached", a)
		}
	}
	if u := b.use(); u.Refused != int64(len(forbidden)) || !strings.Contains(u.Refusal, testnet.Metadata) || u.Received == 0 {
		t.Errorf("use %+v", u)
	}
}

func TestHostItself(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := enter(t, w, egress.Policy{Open: true})
	for _, a := range []string{"127.0.0.1:7443", "[::1]:7443", testnet.HostAddress + ":7443"} {
		l, err := testnet.Within(t, w.Host(), func() (net.Listener, error) { return net.Listen("tcp", a) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := testnet.Dial(t, w.Host(), "tcp", a)
		if err != nil {
			t.Fatalf("%s from the host: %v", a, err)
		}
		_ = c.Close()
		if c, err := b.try(a); err == nil {
			_ = c.Close()
			t.Errorf("%s can be called", a)
		}
	}
	// The gateway's own address there, and the sandbox's.
	for _, a := range []string{egress.Resolver + ":80", "192.0.2.2:80", "0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80"} {
		if c, err := b.try(a); err == nil {
			_ = c.Close()
			t.Errorf("%s can be called", a)
		}
	}
}

// A host can have addresses that no interface shows: clouds give it those of a
// balancer as local routes.
func TestHostsLocalRoute(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	const balancer = "93.184.215.77"
	if out, err := exec.Command("ip", "-n", w.HostName(), "route", "add", "local", balancer+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := testnet.Within(t, w.Host(), func() (net.Listener, error) { return net.Listen("tcp", "0.0.0.0:7443") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := testnet.Dial(t, w.Host(), "tcp", balancer+":7443")
	if err != nil {
		t.Fatalf("from the host: %v", err)
	}
	_ = c.Close()
	b := enter(t, w, egress.Policy{Open: true})
	if c, err := b.try(balancer + ":7443"); err == nil {
		_ = c.Close()
		t.Error("it can be called")
	}
}

// An exception for a whole network is not one for the host, which may be in it
// with all that listens there.
func TestHostInPrivateNetwork(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	const own, neighbour = "10.20.0.1", testnet.Private
	if out, err := exec.Command("ip", "-n", w.HostName(), "addr", "add", own+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, a := range []string{own + ":7443", "127.0.0.1:7443"} {
		l, err := testnet.Within(t, w.Host(), func() (net.Listener, error) { return net.Listen("tcp", a) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	w.Greeter(t, neighbour+":7443")
	wide := enter(t, w, egress.Policy{Open: true, Private: []string{"10.0.0.0/8:*", "127.0.0.0/8:*"}})
	if got, err := wide.greeting(neighbour + ":7443"); err != nil {
		t.Errorf("a neighbour: %q, %v", got, err)
	}
	for _, a := range []string{own + ":7443", "127.0.0.1:7443"} {
		if c, err := wide.try(a); err == nil {
			_ = c.Close()
			t.Errorf("%s can be called", a)
		}
	}
	// An operator may mean the host.
	c, err := enter(t, w, egress.Policy{Open: true, Private: []string{own + ":7443"}}).try(own + ":7443")
	if err != nil {
		t.Fatalf("named by itself: %v", err)
	}
	_ = c.Close()
}

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
}

func TestPrivateByPolicy(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	w.Greeter(t, testnet.Private+":5432")
	w.Greeter(t, testnet.Private+":22")
	b := enter(t, w, egress.Policy{Allow: []string{testnet.Private + ":*"}, Private: []string{"10.20.0.0/16:5432"}})
	if got, err := b.greeting(testnet.Private + ":5432"); err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := b.greeting(testnet.Private + ":22"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("another port: %q, %v", got, err)
	}
}

// A name in the list that is pointed at an exception of the tenant's does not
// lead there: the list has to have the address.
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

// The names in TLS and HTTP must be in the list, too: one address may serve
// many.
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

func TestUDP(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	server := w.Echo(t, testnet.Server+":4000")
	inner := w.Echo(t, testnet.Private+":4000")
	echo := func(b *box, address string) (string, error) {
		c, err := b.dial("udp", address)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := io.WriteString(c, "ping"); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	open := enter(t, w, egress.Policy{Open: true})
	if got, err := echo(open, testnet.Server+":4000"); got != "ping" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := echo(open, testnet.Private+":4000"); err == nil || inner.Load() != 0 {
		t.Errorf("private: %q", got)
	}
	before := server.Load()
	list := enter(t, w, egress.Policy{Allow: []string{testnet.Server + ":4000"}})
	if got, err := echo(list, testnet.Server+":4000"); err == nil || server.Load() != before {
		t.Errorf("with a list: %q", got)
	}
}

// Programs ask from a new port each time, and many programs in a minute.
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

// What a server has sent and the sandbox does not read counts as a connection,
// also when the server has ended it: it is the gateway that keeps it.
func TestUnread(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	go serve(w.Listen(t, testnet.Server+":5000"), func(c net.Conn) { _, _ = c.Write(make([]byte, 250<<10)) })
	b := enter(t, w, egress.Policy{Open: true})
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for len(held) < 400 {
		c, err := b.try(testnet.Server + ":5000")
		if err != nil {
			break
		}
		_ = c.(*net.TCPConn).CloseWrite()
		held = append(held, c)
	}
	if len(held) > 300 {
		t.Fatalf("%d connections with unread bytes", len(held))
	}
	// None of it is lost, and what is read makes room.
	for _, c := range held[:10] {
		if n, err := io.Copy(io.Discard, c); n != 250<<10 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := b.try(testnet.Server + ":5000")
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// What a sandbox can have the gateway keep fits into what the gateway's
// collector of garbage may use, which otherwise never rests.
func TestMemory(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	much := make([]byte, 2<<20)
	go serve(w.Listen(t, testnet.Server+":5000"), func(c net.Conn) {
		_, _ = c.Write(much)
		<-t.Context().Done()
	})
	b := enter(t, w, egress.Policy{Open: true})
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for {
		c, err := b.try(testnet.Server + ":5000")
		if err != nil {
			break
		}
		held = append(held, c)
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		go func() { _, _ = c.Write(much) }()
	}
	time.Sleep(2 * time.Second) // until everything is full
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", gatewayOf(t, b.dir)))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil || kib > 192<<10 || len(held) < 200 {
		t.Errorf("%d KiB with %d connections, %v", kib, len(held), err)
	}
}

// A connection that breaks is broken on the other side as well: an end that
// looks like one would make a whole of half an answer.
func TestReset(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	ends := make(chan error, 1)
	go serve(w.Listen(t, testnet.Server+":5000"), func(c net.Conn) {
		_, _ = io.WriteString(c, "half an ans")
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	go serve(w.Listen(t, testnet.Server+":5001"), func(c net.Conn) {
		_, _ = io.WriteString(c, "x")
		_, err := io.Copy(io.Discard, c)
		ends <- err
	})
	b := enter(t, w, egress.Policy{Open: true})
	c, err := b.dial("tcp", testnet.Server+":5000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x")
	if got, err := io.ReadAll(c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server's reset: %q, %v", got, err)
	}
	if c, err = b.dial("tcp", testnet.Server+":5001"); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Read(make([]byte, 1))
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	select {
	case err := <-ends:
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the sandbox's reset: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the sandbox's reset does not arrive")
	}
}

// Ended connections hold neither memory nor the ports that they had.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	go serve(w.Listen(t, testnet.Server+":5000"), func(net.Conn) {})
	b := enter(t, w, egress.Policy{Open: true})
	// Ports come again in less than a minute.
	_, err := testnet.Within(t, b.ns, func() (struct{}, error) {
		return struct{}{}, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 42999"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		c, err := b.dial("tcp", testnet.Server+":5000")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_, _ = io.ReadAll(c)
		_ = c.Close()
	}
}

// What a step sends cannot spoil the text of its verdict.
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

// The broadcast address of a network that the host is in is every host of it,
// and the host itself.
func TestBroadcast(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := enter(t, w, egress.Policy{Open: true})
	service, err := testnet.Within(t, w.Host(), func() (net.PacketConn, error) { return net.ListenPacket("udp4", "0.0.0.0:7777") })
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	heard := func() string {
		buf := make([]byte, 100)
		_ = service.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, _ := service.ReadFrom(buf)
		return string(buf[:n])
	}
	const broadcast = "185.199.108.3:7777" // of testnet.HostAddress/30
	own, err := testnet.Dial(t, w.Host(), "udp", broadcast)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := io.WriteString(own, "from the host"); err != nil || heard() != "from the host" {
		t.Fatalf("the service is not there: %v", err)
	}
	c, err := b.dial("udp", broadcast)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "from the sandbox")
	if got := heard(); got != "" {
		t.Errorf("the host's service got %q", got)
	}
}

// The gateway ends with the sandbox, is killed on demand, and has nothing that
// it does not need.
func TestProcess(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := enter(t, w, egress.Policy{Open: true})
	pid := gatewayOf(t, b.dir)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t1900000001\t1900000001\t1900000001\t1900000001\n", "Gid:\t1900000001", "Groups:\t \n", "CapEff:\t0000000000000000\n",
		"CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err != nil || !strings.HasPrefix(root, b.dir) {
		t.Errorf("root %q, %v", root, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	inside, err := os.Readlink(b.ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns == inside {
			t.Errorf("%s is in the sandbox's namespace", task)
		}
	}
	if err := egress.Stop(t.Context(), b.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); !strings.Contains(string(data), ") Z ") {
			t.Errorf("it lives: %s", data)
		}
	}
	if !egress.Ready(b.dir) {
		t.Error("what it was is forgotten")
	}

	other := enter(t, w, egress.Policy{Open: true})
	pid = gatewayOf(t, other.dir)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Kill(other.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if n == 1 {
			break
		}
		if !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			t.Fatalf("the gateway outlives the sandbox's supervisor: %d, %v", n, err)
		}
	}
}

// What a gateway writes in its counters leads nobody to another process, and
// keeps no sandbox from its end.
func TestCountersOfARogue(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	victim := exec.Command("sleep", "300")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- victim.Wait() }()
	t.Cleanup(func() { _ = victim.Process.Kill() })
	for what, spoil := range map[string]func(f *os.File) error{
		"every word a pid": func(f *os.File) error {
			for word := range int64(8) {
				if err := binary.Write(io.NewOffsetWriter(f, 8*word), binary.LittleEndian, uint64(victim.Process.Pid)); err != nil { //nolint:gosec // positive
					return err
				}
			}
			return nil
		},
		"cut": func(f *os.File) error { return f.Truncate(1) },
	} {
		b := enter(t, w, egress.Policy{Open: true})
		f, err := os.OpenFile(filepath.Join(b.dir, "network"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := spoil(f); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := egress.Stop(ctx, b.dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("another process was killed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
}

// A driver that dies while the gateway begins is asked again, and finds the
// network that it has made: ready has to mean that it is there.
func TestDriverDiesAtStart(t *testing.T) {
	t.Parallel()
	w := testnet.New(t)
	b := &box{t: t, world: w, dir: t.TempDir()}
	b.sleep()
	open := func(f *os.File, err error) *os.File {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	config, err := json.Marshal(egress.Config{Policy: egress.Policy{Open: true}, Resolvers: []string{testnet.DNS + ":53"}, UID: 1900000001, Root: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.dir, "config")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	counters := open(os.Create(filepath.Join(b.dir, "network")))
	if err := errors.Join(counters.Truncate(egress.CountersSize), unix.Flock(int(counters.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	peer, err := unix.PidfdOpen(b.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, ready, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close() // nobody hears it
	cmd := exec.Command(gateway)
	cmd.ExtraFiles = []*os.File{open(os.Open(file)), open(os.Open(b.ns)), counters, open(os.NewFile(uintptr(peer), "peer"), nil), open(ready, nil)}
	if _, err := testnet.Within(t, w.Host(), func() (struct{}, error) { return struct{}{}, cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for deadline := time.Now().Add(10 * time.Second); !egress.Ready(b.dir) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	select {
	case err := <-ended:
		if egress.Ready(b.dir) {
			t.Errorf("it is ready and has ended: %v", err)
		}
	case <-time.After(200 * time.Millisecond):
	}
}

func serve(l net.Listener, do func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			do(c)
		}()
	}
}

func gatewayOf(t *testing.T, dir string) int {
	t.Helper()
	pid, err := egress.PIDOf(dir)
	if err != nil || pid < 2 {
		t.Fatal(pid, err)
	}
	return pid
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
