package worker

import (
	"path/filepath"
	"testing"

	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/sdk/driver"
)

// Output that the journal did not take is an error of the attempt, also when it
// was the last piece.
func TestLastOutputIsNotTaken(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		j, err := journal.Open(filepath.Join(t.TempDir(), "journal"), nil)
		if err != nil {
			t.Fatal(err)
		}
		o := newOutput(&attempt{w: &Worker{dirty: make(chan struct{}, 1)}, journal: j})
		if broken {
			if err := j.Remove(); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.write(driver.ExecEvent{Stream: driver.Stdout, Data: []byte("all is well\n")}); err != nil {
			t.Fatal(err)
		}
		o.flush()
		if got := o.failed(); (got != nil) != broken {
			t.Errorf("journal gone %t: %v", broken, got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
