package up

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/cmd/nofx/internal/supervise"
	"github.com/nofx-run/nofx/sdk/step"
)

// The API still calls the worker of an earlier start live for a while: that is
// not the one that is waited for.
func TestUpWaitsForItsOwnDaemon(t *testing.T) {
	t.Parallel()
	dir, bin := filepath.Join(t.TempDir(), "data"), binaries(t)
	alive := filepath.Join(dir, "worker", "alive")
	var who []byte
	err := newSystem(t, dir, bin).Run(t.Context(), func(context.Context, Endpoint) (err error) {
		who, err = os.ReadFile(alive)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{alive: who, filepath.Join(dir, "broken-daemon"): nil} {
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err = newSystem(t, dir, bin).Run(t.Context(), func(context.Context, Endpoint) error {
		t.Error("work begins without a daemon")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "cannot work: it is broken") {
		t.Errorf("got %v", err)
	}
}

// What client.env could not name is refused before anything is made.
func TestUpRefusesFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := New(Config{Dir: filepath.Join(dir, "two\nlines"), Listen: "127.0.0.1:0"}); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "--data") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
	// An unset variable of a script is not the folder that it stands in.
	if _, err := New(Config{Dir: "", Listen: "127.0.0.1:0"}); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "--data") {
		t.Errorf("no folder: %v", err)
	}
}

// What a start waited for is told by what was seen last, not by the last look,
// which the end of the time cut short.
func TestUpTellsWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	child := &running{Child: supervise.New(supervise.Spec{Name: "nofxd"}, t.TempDir(), t.TempDir(), slog.New(slog.DiscardHandler)), done: make(chan error, 1)}
	looks := 0
	err := (&System{}).until(t.Context(), 200*time.Millisecond, "nofxd", child, func(ctx context.Context) error {
		if looks++; looks == 1 {
			return errors.New("driver local: permission denied")
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err == nil || !strings.Contains(err.Error(), "not ready after 200ms: driver local: permission denied; see ") {
		t.Errorf("%v", err)
	}
}
