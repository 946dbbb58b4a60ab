package diskwatch

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkUse is what the disk is asked for in each interval.
func BenchmarkUse(b *testing.B) {
	h := Host(b.TempDir())
	for b.Loop() {
		if _, err := h.Use(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSize is one look at a workspace.
func BenchmarkSize(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			for i := range n {
				at := filepath.Join(dir, fmt.Sprint(i/100))
				if i%100 == 0 {
					if err := os.Mkdir(at, 0o700); err != nil {
						b.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(at, fmt.Sprint(i)), nil, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if _, err := Host(dir).Size(b.Context(), dir, 0, []int{os.Getpid()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStay is what the watch adds to a short step in a small workspace.
func BenchmarkStay(b *testing.B) {
	dir := b.TempDir()
	w := New(Host(dir), slog.New(slog.DiscardHandler))
	for b.Loop() {
		s, over := w.Enter(b.Context(), Visit{Dir: dir, Limit: 1 << 30})
		if over != nil || s.Last(b.Context()).Bytes == 0 {
			b.Fatal(over)
		}
		s.Leave()
	}
}
