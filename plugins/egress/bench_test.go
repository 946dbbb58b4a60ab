package egress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/test/bench"
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
	from := func(ns string) func(context.Context) error {
		return func(context.Context) error {
			c, err := testnet.Dial(b, ns, "tcp", testnet.Server+":5000")
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, c)
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes came", n)
			}
			return errors.Join(err, c.Close())
		}
	}
	standing := bench.Turns{Warmup: 2, Rounds: 15}.Run(b,
		bench.Contender{Name: "sandbox", Run: from(box.ns)},
		bench.Contender{Name: "host", Lacks: "a gateway with a policy", Run: from(w.Host())},
	)
	standing.Report(fmt.Sprintf("one connection that brings %d MiB", size>>20))
	for _, name := range []string{"sandbox", "host"} {
		b.ReportMetric(size/1e3/standing.Of(name).Quantile(0.5), name+"-MB/s")
	}
	standing.Ratio("host", "sandbox") // of times, so that it is the rate through the gateway by the host's
}
