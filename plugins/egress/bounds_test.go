package egress_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

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
	eventually(t, "room for a connection", func() bool {
		c, err := b.try(testnet.Server + ":5000")
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

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
	var last egress.Use
	same := 0
	eventually(t, "everything is full: no byte moves", func() bool {
		now := b.use()
		if same++; now.Received != last.Received || now.Sent != last.Sent {
			same, last = 0, now
		}
		return same >= 100 && now.Received > 0 && now.Sent > 0
	})
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
