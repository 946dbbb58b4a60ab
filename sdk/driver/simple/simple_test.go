package simple

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a back end whose processes do as their argv says: "exit" at once,
// "wait" until a signal, "stubborn" until they are killed.
type fake struct {
	made, removed atomic.Int64
	fails         atomic.Bool
}

func (f *fake) Create(context.Context, driver.Spec) (Box, error) {
	if f.fails.Swap(false) {
		return nil, step.Errorf(step.KindUnavailable, "not now")
	}
	f.made.Add(1)
	return &fakeBox{f}, nil
}

type fakeBox struct{ *fake }

func (b *fakeBox) Remove() error { b.removed.Add(1); return nil }

func (b *fakeBox) Start(s driver.ExecSpec, stdout, _ io.Writer) (Process, error) {
	p := &fakeProcess{stubborn: s.Argv[0] == "stubborn", ended: make(chan syscall.Signal, 1)}
	fmt.Fprint(stdout, s.Argv[0], " in ", s.Cwd)
	if strings.TrimSpace(s.Argv[0]) == "exit" {
		p.ended <- 0
	}
	return p, nil
}

type fakeProcess struct {
	stubborn bool
	once     sync.Once
	ended    chan syscall.Signal
}

func (p *fakeProcess) Wait() driver.Exit {
	if sig := <-p.ended; sig != 0 {
		return driver.Exit{Cause: step.CauseSignal, Code: -1, Signal: fmt.Sprint(int(sig)), Attested: step.AttestedKernel}
	}
	return driver.Exit{Cause: step.CauseExit, Attested: step.AttestedKernel}
}

func (p *fakeProcess) Signal(sig syscall.Signal) error {
	if !p.stubborn {
		p.once.Do(func() { p.ended <- sig })
	}
	return nil
}

func (p *fakeProcess) Kill() { p.once.Do(func() { p.ended <- syscall.SIGKILL }) }

func open() (*Driver, *fake) {
	f := &fake{}
	return New(driver.Description{Name: "fake", Capabilities: driver.Capabilities{driver.CapMultiExec}}, f, nil), f
}

func spec(id string) driver.Spec {
	return driver.Spec{ID: id, Tags: driver.Tags{Owner: "o", ID: "t"}}
}

func TestCreateAtOnceMakesOne(t *testing.T) {
	t.Parallel()
	d, f := open()
	f.fails.Store(true) // whoever was waiting for it tries itself
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 10 {
		wg.Go(func() {
			if _, err := d.Create(t.Context(), spec("a")); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if f.made.Load() != 1 || failed.Load() != 1 {
		t.Errorf("%d were made, %d creates failed; want 1 and 1", f.made.Load(), failed.Load())
	}
	other := spec("a")
	other.Tags.ID = "other"
	if _, err := d.Create(t.Context(), other); !step.Is(err, step.KindConflict) {
		t.Errorf("another spec: %v", err)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, f := open()
		h, err := d.Create(t.Context(), spec("a"))
		if err != nil {
			t.Fatal(err)
		}
		var out string
		var exit *driver.Exit
		sink := func(e driver.ExecEvent) error {
			out += string(e.Data)
			exit = e.Exit
			return nil
		}
		if err := d.Exec(t.Context(), h, driver.ExecSpec{ID: "1", Argv: []string{"exit"}}, sink); err != nil || out != "exit in /workspace" || exit.OutputBytes != int64(len(out)) {
			t.Errorf("exec: %v, %q, %+v", err, out, exit)
		}
		for _, id := range []string{"2", "3"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			argv := map[string]string{"2": "wait", "3": "stubborn"}[id]
			if err := d.Exec(ctx, h, driver.ExecSpec{ID: id, Argv: []string{argv}}, sink); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("exec %s: %v", id, err)
			}
		}
		began := time.Now()
		if err := d.Stop(t.Context(), h, 3*time.Second, step.CauseTimeout); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("stop: %v after %v", err, time.Since(began))
		}
		st, err := d.Recover(t.Context(), h)
		if err != nil || st.Phase != driver.PhaseExited || len(st.Execs) != 3 || st.Execs[0].Exit.Cause != step.CauseExit ||
			st.Execs[1].Exit.Cause != step.CauseTimeout || st.Execs[2].Exit.Cause != step.CauseTimeout {
			t.Errorf("recover: %+v, %v", st, err)
		}
		for range 2 {
			if err := d.Destroy(t.Context(), h); err != nil {
				t.Error(err)
			}
		}
		if f.removed.Load() != 1 {
			t.Errorf("removed %d times", f.removed.Load())
		}
		if st, err := d.Recover(t.Context(), h); err != nil || st.Phase != driver.PhaseGone {
			t.Errorf("recover: %+v, %v", st, err)
		}
	})
}
