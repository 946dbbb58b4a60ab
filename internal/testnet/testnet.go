// Package testnet gives tests a little Internet of their own: network
// namespaces without any uplink, in which addresses of every kind have servers.
//
//	sandbox  (made by whoever is tested)
//	host     where the tested program runs; the default route leads to world
//	world    the Internet, clouds' metadata and private networks
package testnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the world.
const (
	Server      = "93.184.215.14" // a host on the Internet
	OtherServer = "93.184.215.15"
	Server6     = "2606:2800:220:1::14"
	DNS         = "9.9.9.9" // a name server, see Names
	Metadata    = "169.254.169.254"
	Metadata6   = "fd00:ec2::254"
	Alibaba     = "100.100.100.200"
	Azure       = "168.63.129.16"
	Private     = "10.20.0.5"
	Private2    = "172.20.0.5"
	Private3    = "192.168.7.5"
	HostAddress = "185.199.108.2" // of the host itself, as good as any
)

var world = []string{Server, OtherServer, DNS, Metadata, Alibaba, Azure, Private, Private2, Private3}
var world6 = []string{Server6, Metadata6}

// T is what a test is told; testing.TB is one.
type T interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
	Context() context.Context
}

// Net is the namespaces of one test.
type Net struct {
	host, world string
}

// New makes them. They go when the test ends.
func New(t T) *Net {
	t.Helper()
	var raw [5]byte
	_, _ = rand.Read(raw[:]) // never fails
	tag := hex.EncodeToString(raw[:])
	n := &Net{host: "nofxtest-h" + tag, world: "nofxtest-w" + tag}
	for _, ns := range []string{n.host, n.world} {
		run(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
		run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	a, b := "h"+tag, "w"+tag
	run(t, "ip", "-n", n.host, "link", "add", a, "type", "veth", "peer", "name", b, "netns", n.world)
	for _, l := range []struct{ ns, link, v4, v6 string }{
		{n.host, a, HostAddress + "/30", "2606:50c0:8000::2/64"}, {n.world, b, "185.199.108.1/30", "2606:50c0:8000::1/64"},
	} {
		run(t, "ip", "-n", l.ns, "addr", "add", l.v4, "dev", l.link)
		run(t, "ip", "-n", l.ns, "addr", "add", l.v6, "dev", l.link, "nodad")
		run(t, "ip", "-n", l.ns, "link", "set", l.link, "up")
	}
	run(t, "ip", "-n", n.host, "route", "add", "default", "via", "185.199.108.1")
	run(t, "ip", "-n", n.host, "-6", "route", "add", "default", "via", "2606:50c0:8000::1")
	for _, addr := range world {
		run(t, "ip", "-n", n.world, "addr", "add", addr+"/32", "dev", "lo")
	}
	for _, addr := range world6 {
		run(t, "ip", "-n", n.world, "addr", "add", addr+"/128", "dev", "lo", "nodad")
	}
	return n
}

func run(t T, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// Host and World are the paths of the namespaces, for Within.
func (n *Net) Host() string  { return "/run/netns/" + n.host }
func (n *Net) World() string { return "/run/netns/" + n.world }

// HostName is the namespace's name, for `ip netns exec`.
func (n *Net) HostName() string { return n.host }

// Within calls do on a thread that is in a namespace: what it opens and starts
// is there. do must not start goroutines for that.
func Within[V any](t T, ns string, do func() (V, error)) (V, error) {
	t.Helper()
	f, err := os.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type result struct {
		v   V
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		var r result
		if r.err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); r.err == nil {
			r.v, r.err = do()
		}
		done <- r
	}()
	r := <-done
	return r.v, r.err
}

// Dial connects from a namespace.
func Dial(t T, ns, network, address string) (net.Conn, error) {
	t.Helper()
	return Within(t, ns, func() (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), network, address)
	})
}

// Listen listens on TCP in the world.
func (n *Net) Listen(t T, address string) net.Listener {
	t.Helper()
	l, err := Within(t, n.World(), func() (net.Listener, error) { return (&net.ListenConfig{}).Listen(t.Context(), "tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// ListenPacket listens on UDP in the world.
func (n *Net) ListenPacket(t T, address string) net.PacketConn {
	t.Helper()
	c, err := Within(t, n.World(), func() (net.PacketConn, error) { return (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
