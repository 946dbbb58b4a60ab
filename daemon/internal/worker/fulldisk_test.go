package worker

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// A full disk costs output, never the truth about how a step ended: its verdict
// has had its place all along, and says what is not stored.
func TestVerdictOnAFullDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) {
		if err := syscall.Mount("tmpfs", r.dir, "tmpfs", 0, "size=4m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(r.dir, 0); err != nil {
				t.Error(err)
			}
		})
		if err := os.Mkdir(filepath.Join(r.dir, "journal"), 0o700); err != nil {
			t.Fatal(err)
		}
	})
	r.api.submit(lease("a", "sh", "-c", "mem flood 6000000; mem exit 3"))
	got := r.api.verdict("a").verdict.Verdict
	if got.Cause != step.CauseExit || got.ExitCode == nil || *got.ExitCode != 3 || !strings.Contains(got.Message, "could not be stored: the disk") ||
		!got.Output.Truncated || got.Output.TotalBytes != 6000000 || got.Output.StoredBytes < 1<<20 || got.Output.StoredBytes > 4<<20 {
		t.Errorf("%s: %+v", got, got)
	}
	r.left()
	r.api.submit(lease("b", "sh", "-c", "echo fine")) // there is room again
	if got := r.api.verdict("b").verdict.Verdict; !got.Success() || got.Output.Truncated || got.Message != "" {
		t.Errorf("%s: %+v", got, got)
	}
	r.left()
}
