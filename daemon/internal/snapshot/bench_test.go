package snapshot_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/snapshot"
)

func BenchmarkTake(b *testing.B) {
	c := &chain{dir: b.TempDir()}
	for i := range 10_000 {
		dir := filepath.Join(c.dir, fmt.Sprint("d", i/100))
		must(b, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), bytes.Repeat([]byte(fmt.Sprintln(i)), 800), 0o644))
	}
	began := time.Now()
	taken, err := c.save(b.Context(), room)
	must(b, err)
	b.Logf("full: %v, %d bytes of files, layer of %d bytes", time.Since(began), taken.Bytes, len(c.layers[0]))
	<-time.NewTimer(50 * time.Millisecond).C
	_, err = c.save(b.Context(), room) // files that were fresh are read once more
	must(b, err)
	// What the daemon does after a step: the index is read, the tree is looked at,
	// and a new index written where something has changed.
	var kept bytes.Buffer
	_, err = c.index.WriteTo(&kept)
	must(b, err)
	shoot := func(b *testing.B, want bool) int64 {
		index, err := snapshot.ReadIndex(bytes.NewReader(kept.Bytes()))
		must(b, err)
		var layer, next bytes.Buffer
		taken, err := snapshot.Take(b.Context(), c.dir, index, false, room, &layer)
		must(b, err)
		if taken.Changed != want {
			b.Fatalf("%+v", taken)
		}
		if taken.Changed {
			_, err = taken.Index.WriteTo(&next)
			must(b, err)
		}
		return int64(layer.Len())
	}
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			shoot(b, false)
		}
	})
	b.Run("one file changed", func(b *testing.B) {
		size := int64(0)
		for i := 0; b.Loop(); i++ {
			must(b, os.WriteFile(filepath.Join(c.dir, "d7/f700"), []byte(fmt.Sprint(i)), 0o644))
			size = shoot(b, true)
		}
		b.ReportMetric(float64(size), "bytes/layer")
	})
}
