package egress_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

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
	eventually(b.t, "a namespace of its own", func() bool {
		got, err := os.Readlink(b.ns)
		return err == nil && got != own
	})
}

// eventually waits for f to be true: of another process there is no other word.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come about: %s", what)
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
	r := b.resolver()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	return r.LookupHost(ctx, name+".")
}

// resolver asks the sandbox's name server.

func (b *box) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return b.dial(network, egress.Resolver+":53")
	}}
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

// A host can have addresses that no interface shows: clouds give it those of a

// balancer as local routes.

// An exception for a whole network is not one for the host, which may be in it

// with all that listens there.

// A name in the list that is pointed at an exception of the tenant's does not

// lead there: the list has to have the address.

// The names in TLS and HTTP must be in the list, too: one address may serve

// many.

// Programs ask from a new port each time, and many programs in a minute.

// What a server has sent and the sandbox does not read counts as a connection,

// also when the server has ended it: it is the gateway that keeps it.

// What a sandbox can have the gateway keep fits into what the gateway's

// collector of garbage may use, which otherwise never rests.

// A connection that breaks is broken on the other side as well: an end that

// looks like one would make a whole of half an answer.

// Ended connections hold neither memory nor the ports that they had.

// What a step sends cannot spoil the text of its verdict.

// The broadcast address of a network that the host is in is every host of it,

// and the host itself.

// The gateway ends with the sandbox, is killed on demand, and has nothing that

// it does not need.

// What a gateway writes in its counters leads nobody to another process, and

// keeps no sandbox from its end.

// A driver that dies while the gateway begins is asked again, and finds the

// network that it has made: ready has to mean that it is there.

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
