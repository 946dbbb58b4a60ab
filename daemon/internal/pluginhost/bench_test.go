package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverpb"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/bench"
)

// benchDriver is the in-memory driver as a plugin, mutual TLS included.
func benchDriver(b *testing.B) driver.Driver {
	b.Helper()
	base := b.TempDir()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, prefix+"memory"), data, 0o755); err != nil {
		b.Fatal(err)
	}
	h, err := New(Config{Dir: base, SocketDir: filepath.Join(base, "s"), AllowUnsigned: true, Configs: configsOf("memory"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	if err := h.Ready(ctx); err != nil {
		b.Fatal(err)
	}
	d, err := h.Driver("memory")
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// bareEnv names the socket on which this program serves a driver over gRPC and
// nothing else: no plugin host, no mutual TLS.
const bareEnv = "NOFX_TEST_BARE_GRPC"

func serveBare(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer(driverrpc.ServerOptions()...)
	driverpb.RegisterDriverServer(s, driverrpc.NewServer(memdriver.New(memdriver.NewWorld(), memdriver.Options{Name: "memory"})))
	_, _ = fmt.Println("ready")
	if err := s.Serve(l); err != nil {
		panic(err)
	}
}

// bareDriver is the in-memory driver in another process over bare gRPC.
func bareDriver(b *testing.B) driver.Driver {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(b.TempDir(), "s")
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), bareEnv+"="+socket)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+socket, append(driverrpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return driverrpc.NewClient(conn)
}

// BenchmarkCall is one small call to a plugin through the host, in turns with
// the same over bare gRPC.
func BenchmarkCall(b *testing.B) {
	call := func(d driver.Driver) func(context.Context) error {
		h, err := d.Create(b.Context(), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}})
		if err != nil {
			b.Fatal(err)
		}
		return func(ctx context.Context) error {
			_, err := d.Recover(ctx, h)
			return err
		}
	}
	standing := bench.Turns{Warmup: 500, Rounds: 10_000}.Run(b,
		bench.Contender{Name: "plugin", Run: call(benchDriver(b))},
		bench.Contender{Name: "bare-grpc", Lacks: "mutual TLS, a deadline, checks of what a plugin says", Run: call(bareDriver(b))},
	)
	standing.Report()
	standing.Ratio("plugin", "bare-grpc")
}

func ignoreEvent(driver.ExecEvent) error { return nil }

func BenchmarkStep(b *testing.B) {
	d := benchDriver(b)
	n := 0
	for b.Loop() {
		n++
		if err := echo(b.Context(), d, fmt.Sprintf("box-%d", n)); err != nil {
			b.Fatal(err)
		}
	}
}

const floodSize = 64 << 20 // bytes that a round of a benchmark reads

// flooded makes a sandbox whose program has written as much.
func flooded(b *testing.B, d driver.Driver) driver.Handle {
	b.Helper()
	h, err := d.Create(b.Context(), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}})
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Exec(b.Context(), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "flood", strconv.Itoa(floodSize)}}, ignoreEvent); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(floodSize)
	return h
}

func BenchmarkOutput(b *testing.B) {
	d := benchDriver(b)
	h := flooded(b, d)
	for b.Loop() {
		if err := d.Attach(b.Context(), h, "main", 0, ignoreEvent); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOutputToDisk is BenchmarkOutput into an attempt's journal, as the
// worker keeps it.
func BenchmarkOutputToDisk(b *testing.B) {
	d := benchDriver(b)
	h := flooded(b, d)
	for b.Loop() {
		j, err := journal.Open(filepath.Join(b.TempDir(), "journal"), nil)
		if err != nil {
			b.Fatal(err)
		}
		sink := func(e driver.ExecEvent) error {
			for data, at := e.Data, e.Offset; len(data) > 0; {
				n := min(len(data), wire.MaxOutputRecord)
				if _, err := j.Append(wire.Record{Type: wire.RecordOutput, Output: &wire.OutputRecord{Stream: wire.Stdout, Offset: at, Data: data[:n]}}); err != nil {
					return err
				}
				data, at = data[n:], at+int64(n)
			}
			return nil
		}
		if err := d.Attach(b.Context(), h, "main", 0, sink); err != nil {
			b.Fatal(err)
		}
		if got := j.Position().Output; got != floodSize {
			b.Fatalf("the journal has %d bytes", got)
		}
		if err := j.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
