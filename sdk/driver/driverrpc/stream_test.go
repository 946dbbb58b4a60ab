package driverrpc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a driver whose calls are functions.
type script struct {
	driver.Driver // nil: what is not scripted must not be called
	exec          func(ctx context.Context, sink driver.Sink) error
	copyIn        func(ctx context.Context, tar io.Reader) error
	copyOut       func(ctx context.Context, tar io.Writer) error
	create        func(ctx context.Context, spec driver.Spec) (driver.Handle, error)
	config        func(json.RawMessage) error
	list          func() []driver.Listed
}

func (s script) List(context.Context, string) ([]driver.Listed, error) { return s.list(), nil }

func (s script) Exec(ctx context.Context, _ driver.Handle, _ driver.ExecSpec, sink driver.Sink) error {
	return s.exec(ctx, sink)
}

func (s script) CopyIn(ctx context.Context, _ driver.Handle, _ string, tar io.Reader) error {
	return s.copyIn(ctx, tar)
}

func (s script) CopyOut(ctx context.Context, _ driver.Handle, _ string, _ int64, tar io.Writer) error {
	return s.copyOut(ctx, tar)
}

func (s script) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	return s.create(ctx, spec)
}

func (s script) Configure(_ context.Context, config json.RawMessage) error { return s.config(config) }

func handle() driver.Handle { return driver.Handle{Driver: "script", ID: "box", Version: 1} }

func spec() driver.ExecSpec { return driver.ExecSpec{ID: "main", Argv: []string{"x"}} }

func exec(t *testing.T, f func(ctx context.Context, sink driver.Sink) error, sink driver.Sink) error {
	t.Helper()
	return drivertest.Connect(t, script{exec: f}).Exec(t.Context(), handle(), spec(), sink)
}

func ignore(driver.ExecEvent) error { return nil }

func end() driver.ExecEvent {
	return driver.ExecEvent{Exit: &driver.Exit{Cause: step.CauseExit, Attested: step.AttestedKernel}}
}

func TestLargeChunksAreSplit(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	var got []byte
	err := exec(t, func(_ context.Context, sink driver.Sink) error {
		if err := sink(driver.ExecEvent{Stream: driver.Stderr, Data: data}); err != nil {
			return err
		}
		return sink(end())
	}, func(e driver.ExecEvent) error {
		if len(e.Data) > driverrpc.MaxChunk || e.Exit == nil && (e.Stream != driver.Stderr || e.Offset != int64(len(got))) {
			t.Errorf("an event of %d bytes of stream %d at %d", len(e.Data), e.Stream, e.Offset)
		}
		got = append(got, e.Data...)
		return nil
	})
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came, %v", len(got), len(data), err)
	}
}

func TestBrokenPromisesAreNoticed(t *testing.T) {
	t.Parallel()
	out := func(off int64, s string) driver.ExecEvent {
		return driver.ExecEvent{Stream: driver.Stdout, Offset: off, Data: []byte(s)}
	}
	for what, c := range map[string]struct {
		events []driver.ExecEvent
		want   step.Kind
	}{
		"no exit":                                {[]driver.ExecEvent{out(0, "abc")}, step.KindUnavailable},
		"a gap":                                  {[]driver.ExecEvent{out(0, "abc"), out(4, "x"), end()}, step.KindInternal},
		"an overlap":                             {[]driver.ExecEvent{out(0, "abc"), out(2, "x"), end()}, step.KindInternal},
		"a wrong start":                          {[]driver.ExecEvent{out(1, "abc"), end()}, step.KindInternal},
		"no stream":                              {[]driver.ExecEvent{{Data: []byte("x")}, end()}, step.KindInternal},
		"an unknown cause":                       {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: "boredom", Attested: step.AttestedKernel}}}, step.KindInternal},
		"no cause":                               {[]driver.ExecEvent{{Exit: &driver.Exit{Attested: step.AttestedKernel}}}, step.KindInternal},
		"a code of 256":                          {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseExit, Code: 256, Attested: step.AttestedKernel}}}, step.KindInternal},
		"nobody's word":                          {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseExit}}}, step.KindInternal},
		"no signal":                              {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseSignal, Attested: step.AttestedKernel}}}, step.KindInternal},
		"a NUL in the signal":                    {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseSignal, Signal: "SIG\x00", Attested: step.AttestedKernel}}}, step.KindInternal},
		"a signal of noise beside another cause": {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseTimeout, Signal: "SIG\nTERM", Attested: step.AttestedKernel}}}, step.KindInternal},
		"a long signal":                          {[]driver.ExecEvent{{Exit: &driver.Exit{Cause: step.CauseSignal, Signal: strings.Repeat("S", 65), Attested: step.AttestedKernel}}}, step.KindInternal},
	} {
		exits := 0
		err := exec(t, func(_ context.Context, sink driver.Sink) error {
			for _, e := range c.events {
				if err := sink(e); err != nil {
					return err
				}
			}
			return nil
		}, func(e driver.ExecEvent) error {
			if e.Exit != nil {
				exits++
			}
			return nil
		})
		if !step.Is(err, c.want) || exits > 0 {
			t.Errorf("%s: %v, %d exits; want %s and none", what, err, exits, c.want)
		}
	}
}

// A reader that stops reading must stop the writer, not fill the memory.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	written := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := drivertest.Connect(t, script{exec: func(ctx context.Context, sink driver.Sink) error {
		chunk := make([]byte, 64<<10)
		n := 0
		defer func() { written <- n }()
		for {
			if err := sink(driver.ExecEvent{Stream: driver.Stdout, Offset: int64(n), Data: chunk}); err != nil {
				return err
			}
			n += len(chunk)
		}
	}})
	blocked := make(chan struct{})
	err := d.Exec(ctx, handle(), spec(), func(driver.ExecEvent) error {
		timer := time.AfterFunc(time.Second, cancel)
		defer timer.Stop()
		<-ctx.Done()
		close(blocked)
		return ctx.Err()
	})
	<-blocked
	if !errors.Is(err, context.Canceled) {
		t.Errorf("exec: %v", err)
	}
	if n := <-written; n > 8<<20 {
		t.Errorf("the driver wrote %d bytes that nobody read", n)
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	d := drivertest.Connect(t, script{create: func(ctx context.Context, s driver.Spec) (driver.Handle, error) {
		at, ok := ctx.Deadline()
		if !ok {
			at = time.Now().Add(1000 * time.Hour)
		}
		left <- time.Until(at)
		return driver.Handle{Driver: "script", ID: s.ID, Version: 1}, nil
	}})
	s := driver.Spec{ID: "box", Tags: driver.Tags{Owner: "o", ID: "i"}}
	if _, err := d.Create(context.WithoutCancel(t.Context()), s); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got > time.Hour {
		t.Errorf("a call without a deadline has %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
	defer cancel()
	if _, err := d.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	if got := <-left; got > 7*time.Second || got < 5*time.Second {
		t.Errorf("a call with 7 s has %v", got)
	}
}

func TestBoundsAtTheServer(t *testing.T) {
	t.Parallel()
	d := drivertest.Connect(t, script{
		exec:   func(context.Context, driver.Sink) error { t.Error("an invalid exec reached the driver"); return nil },
		config: func(json.RawMessage) error { t.Error("an invalid configuration reached the driver"); return nil },
		create: func(_ context.Context, s driver.Spec) (driver.Handle, error) {
			return driver.Handle{Driver: "script", ID: s.ID, Data: make([]byte, driver.MaxHandle+1)}, nil
		},
	})
	big := driver.Handle{Driver: "script", ID: "box", Data: make([]byte, driver.MaxHandle+1)}
	if err := d.Exec(t.Context(), big, spec(), ignore); !step.Is(err, step.KindInvalid) {
		t.Errorf("a handle that is too large: %v", err)
	}
	if err := d.Exec(t.Context(), driver.Handle{}, spec(), ignore); !step.Is(err, step.KindInvalid) {
		t.Errorf("no handle: %v", err)
	}
	bad := spec()
	bad.Env = []string{"A=\xff"}
	if err := d.Exec(t.Context(), handle(), bad, ignore); !step.Is(err, step.KindInvalid) {
		t.Errorf("a variable that is not UTF-8: %v", err)
	}
	if _, err := d.Create(t.Context(), driver.Spec{ID: "box", Tags: driver.Tags{Owner: "o", ID: "i"}}); !step.Is(err, step.KindInternal) {
		t.Errorf("a driver that gives a handle which is too large: %v", err)
	}
	if err := d.Configure(t.Context(), json.RawMessage("{")); !step.Is(err, step.KindInvalid) {
		t.Errorf("a configuration that is not JSON: %v", err)
	}
	if err := d.Configure(t.Context(), json.RawMessage(`"`+strings.Repeat("x", driverrpc.MaxMessage)+`"`)); !step.Is(err, step.KindTooLarge) {
		t.Errorf("a configuration of more than a message: %v", err)
	}
	if err := d.Stop(t.Context(), handle(), time.Second, step.CauseOOM); !step.Is(err, step.KindInvalid) {
		t.Errorf("stop for a reason that is none: %v", err)
	}
	if _, err := d.List(t.Context(), ""); !step.Is(err, step.KindInvalid) {
		t.Errorf("list of nobody: %v", err)
	}
}

func TestLargestExec(t *testing.T) {
	t.Parallel()
	s := spec()
	s.Stdin = make([]byte, driver.MaxStdin)
	s.Argv = []string{"x", strings.Repeat("y", driver.MaxArgBytes-10)}
	err := drivertest.Connect(t, script{exec: func(_ context.Context, sink driver.Sink) error { return sink(end()) }}).
		Exec(t.Context(), handle(), s, ignore)
	if err != nil {
		t.Errorf("the largest valid exec: %v", err)
	}
}

func TestCopyInThatBreaksOff(t *testing.T) {
	t.Parallel()
	read := make(chan error, 1)
	d := drivertest.Connect(t, script{copyIn: func(_ context.Context, tar io.Reader) error {
		_, err := io.Copy(io.Discard, tar)
		read <- err
		return err
	}})
	broken := errors.New("the source broke")
	err := d.CopyIn(t.Context(), handle(), "/x", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), errReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("copy in: %v", err)
	}
	if err := <-read; err == nil {
		t.Error("the driver took a broken stream for a whole one")
	}
	// A driver that refuses early is heard, however much was still to come.
	d = drivertest.Connect(t, script{copyIn: func(context.Context, io.Reader) error {
		return step.Errorf(step.KindTooLarge, "enough")
	}})
	if err := d.CopyIn(t.Context(), handle(), "/x", io.LimitReader(zeros{}, 64<<20)); !step.Is(err, step.KindTooLarge) {
		t.Errorf("copy in that is refused early: %v", err)
	}
}

func TestCopiesAreWhole(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("tar bytes "), 500_000)
	var got []byte
	d := drivertest.Connect(t, script{
		copyIn: func(_ context.Context, tar io.Reader) (err error) { got, err = io.ReadAll(tar); return err },
		copyOut: func(_ context.Context, tar io.Writer) error {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 777)
				if _, err := tar.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		},
	})
	if err := d.CopyIn(t.Context(), handle(), "/x", bytes.NewReader(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("copy in: %d of %d bytes, %v", len(got), len(data), err)
	}
	var out bytes.Buffer
	if err := d.CopyOut(t.Context(), handle(), "/x", 0, &out); err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("copy out: %d of %d bytes, %v", out.Len(), len(data), err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkExecOutput measures one exec's output through the wire.
func BenchmarkExecOutput(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 64 << 10, 256 << 10} {
		b.Run(strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
			chunk := make([]byte, size)
			d := drivertest.Connect(b, script{exec: func(_ context.Context, sink driver.Sink) error {
				for i := range b.N {
					if err := sink(driver.ExecEvent{Stream: driver.Stdout, Offset: int64(i) * int64(size), Data: chunk}); err != nil {
						return err
					}
				}
				return sink(end())
			}})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			if err := d.Exec(b.Context(), handle(), spec(), ignore); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// A list is bounded, each sandbox of it and as a whole: the host keeps all of it.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	one := func(id string, size int) driver.Listed {
		return driver.Listed{Handle: driver.Handle{Driver: "script", ID: id, Data: make([]byte, size)}, Tags: driver.Tags{Owner: "x", ID: "y"}, Phase: driver.PhaseCreated}
	}
	for what, c := range map[string]struct {
		of   driver.Listed
		n    int
		good bool
	}{
		"a few":        {one("box", driver.MaxHandle), 300, true},
		"too many":     {one("box", driver.MaxHandle), 10_000, false},
		"a long id":    {one(strings.Repeat("x", 1<<20), 1), 1, false},
		"a path":       {one("../x", 1), 1, false},
		"a NUL":        {one("a\x00b", 1), 1, false},
		"a large blob": {one("box", driver.MaxHandle+1), 1, false},
	} {
		all, err := drivertest.Connect(t, script{list: func() []driver.Listed { return slices.Repeat([]driver.Listed{c.of}, c.n) }}).List(t.Context(), "x")
		if c.good && (err != nil || len(all) != c.n) || !c.good && !step.Is(err, step.KindInternal) {
			t.Errorf("%s: %d sandboxes, %v", what, len(all), err)
		}
	}
}
