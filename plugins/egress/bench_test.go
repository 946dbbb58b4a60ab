package egress_test

import (
	"io"
	"net"
	"testing"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
)

// BenchmarkDownload is one connection from a sandbox through its gateway, next
// to the same from the host itself.
func BenchmarkDownload(b *testing.B) {
	const size = 256 << 20
	w := testnet.New(b)
	l := w.Listen(b, testnet.Server+":5000")
	go serve(l, func(c net.Conn) {
		block := make([]byte, 1<<20)
		for sent := 0; sent < size; sent += len(block) {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	box := enter(b, w, egress.Policy{Open: true})
	for name, ns := range map[string]string{"sandbox": box.ns, "host": w.Host()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				c, err := testnet.Dial(b, ns, "tcp", testnet.Server+":5000")
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, c); n != size || err != nil {
					b.Fatal(n, err)
				}
				_ = c.Close()
			}
		})
	}
}
