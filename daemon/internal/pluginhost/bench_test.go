package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
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

func BenchmarkOutput(b *testing.B) {
	d := benchDriver(b)
	const size = 64 << 20
	h, err := d.Create(b.Context(), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "test", ID: "tag"}})
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Exec(b.Context(), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "flood", strconv.Itoa(size)}}, ignoreEvent); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		if err := d.Attach(b.Context(), h, "main", 0, ignoreEvent); err != nil {
			b.Fatal(err)
		}
	}
}
