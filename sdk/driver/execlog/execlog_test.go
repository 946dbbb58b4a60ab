package execlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// read gathers a stream, and checks that it is contiguous.
func read(t *testing.T, l *Log, offset int64) (out, err string, exit *driver.Exit) {
	t.Helper()
	e := l.Stream(t.Context(), offset, func(e driver.ExecEvent) error {
		switch {
		case e.Exit != nil:
			exit = e.Exit
		case e.Offset != offset:
			t.Errorf("offset %d, want %d", e.Offset, offset)
		case e.Stream == driver.Stdout:
			out += string(e.Data)
		default:
			err += string(e.Data)
		}
		offset += int64(len(e.Data))
		return nil
	})
	if e != nil {
		t.Error(e)
	}
	return out, err, exit
}

func TestStreamFromAnyOffset(t *testing.T) {
	t.Parallel()
	l := New(100)
	fmt.Fprint(l.Writer(driver.Stdout), "one ")
	fmt.Fprint(l.Writer(driver.Stderr), "two ")
	fmt.Fprint(l.Writer(driver.Stdout), "")
	fmt.Fprint(l.Writer(driver.Stdout), "three")
	l.End(driver.Exit{Cause: step.CauseExit, Code: 3})
	for offset, want := range map[int64][2]string{
		0: {"one three", "two "}, 2: {"e three", "two "}, 4: {"three", "two "}, 6: {"three", "o "}, 13: {}, 14: {}, 1 << 40: {},
	} {
		out, err, exit := read(t, l, offset)
		if out != want[0] || err != want[1] || exit == nil || exit.Code != 3 || exit.OutputBytes != 13 || exit.TotalBytes != 13 || exit.Truncated {
			t.Errorf("from %d: %q, %q, %+v", offset, out, err, exit)
		}
	}
	if st := l.State("x"); st.ID != "x" || st.OutputBytes != 13 || st.Exit == nil {
		t.Errorf("state %+v", st)
	}
	<-l.Done()
}

func TestLimit(t *testing.T) {
	t.Parallel()
	l := New(5)
	for range 3 {
		fmt.Fprint(l.Writer(driver.Stdout), "abc")
	}
	l.End(driver.Exit{})
	if out, _, exit := read(t, l, 0); out != "abcab" || !exit.Truncated || exit.OutputBytes != 5 || exit.TotalBytes != 9 {
		t.Errorf("%q, %+v", out, exit)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	l := New(1 << 20)
	go func() {
		for range 1000 {
			fmt.Fprint(l.Writer(driver.Stdout), "x")
		}
		l.End(driver.Exit{})
	}()
	if out, _, _ := read(t, l, 0); out != strings.Repeat("x", 1000) {
		t.Errorf("%d bytes", len(out))
	}
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	l := New(10)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Stream(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
	full := errors.New("full")
	fmt.Fprint(l.Writer(driver.Stdout), "x")
	if err := l.Stream(t.Context(), 0, func(driver.ExecEvent) error { return full }); !errors.Is(err, full) {
		t.Errorf("a sink that fails: %v", err)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	l := New(4)
	full := func() bool {
		select {
		case <-l.Full():
			return true
		default:
			return false
		}
	}
	for _, tc := range []struct {
		text string
		full bool
	}{{"ab", false}, {"cd", false}, {"", false}, {"e", true}, {"f", true}} {
		_, _ = l.Writer(driver.Stdout).Write([]byte(tc.text))
		if full() != tc.full {
			t.Errorf("after %q: full %v", tc.text, full())
		}
	}
}
