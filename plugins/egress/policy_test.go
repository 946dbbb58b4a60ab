package egress_test

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

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
