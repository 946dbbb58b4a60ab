package render

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func detail(status step.RunStatus, steps ...wire.StepDetail) wire.RunDetail {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	end := start.Add(90 * time.Second)
	return wire.RunDetail{Run: wire.RunSummary{ID: "r1", Status: status, CreatedAt: start, EndedAt: &end}, Steps: steps}
}

func ended(name string, exit int) wire.StepDetail {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	end := start.Add(1500 * time.Millisecond)
	v := &step.Verdict{Cause: step.CauseExit, ExitCode: &exit,
		Usage:  step.Usage{WallMS: 1500, CPUUsec: 250_000, MemoryPeakBytes: 3 << 20, PidsPeak: 4},
		Output: step.Output{StoredBytes: 10, TotalBytes: 10}}
	return wire.StepDetail{ID: "s-" + name, Name: name, Status: v.StepStatus(), Attempt: 1, StartedAt: &start, EndedAt: &end, Verdict: v}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := NewPlain(&b)
	queued := wire.StepDetail{ID: "s-build", Name: "build", Status: step.StepQueued}
	stuck := queued
	stuck.WaitingFor = "a worker with the driver x\x1b"
	running := queued
	running.Status, running.Attempt = step.StepRunning, 1
	p.Steps(detail(step.RunQueued, queued))
	p.Steps(detail(step.RunQueued, stuck))
	p.Steps(detail(step.RunQueued, stuck)) // no news
	p.Steps(detail(step.RunRunning, running))
	p.Steps(detail(step.RunRunning, running)) // no news
	p.Output(running, 1, wire.Stdout, []byte("one\ntw"))
	p.Output(running, 1, wire.Stderr, []byte("bad\x1b[31m\x07\n"))
	p.Output(running, 1, wire.Stdout, []byte("o\r\n10%\r99%\nlast"))
	p.Steps(detail(step.RunSucceeded, ended("build", 0)))
	p.Close(detail(step.RunSucceeded, ended("build", 0)))
	want := strings.Join([]string{
		"build = queued, waits for a worker with the driver x·",
		"build = running",
		"build | one",
		"build ! bad·[31m·",
		"build | two",
		"build | 99%",
		"build | last",
		"build = succeeded, exit 0, 1.5s",
	}, "\n") + "\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestResults(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	bad := ended("check", 7)
	bad.Verdict.Message = "2 tests failed"
	bad.Verdict.Output = step.Output{StoredBytes: 512 << 10, TotalBytes: 300e6, Truncated: true}
	d := detail(step.RunFailed, ended("build", 0), bad, wire.StepDetail{Name: "collect", Status: step.StepCancelled},
		wire.StepDetail{Name: "send", Status: step.StepQueued, WaitingFor: "a worker with the driver x\x1b"})
	d.Artifacts = []wire.ArtifactInfo{{StepName: "build", Name: "out/a", Size: 2048, SHA256: strings.Repeat("ab", 32)}}
	if err := Results(&b, d); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"build    succeeded  exit 0   1.5s  250ms  3.0MiB",
		"exit 7",
		"286.1MiB (kept 512.0KiB)",
		"check: 2 tests failed",
		"collect  cancelled  -",
		"\nsend: waits for a worker with the driver x·\n",
		"build/out/a  2.0KiB  " + strings.Repeat("ab", 32),
		"run r1 failed in 1m30s",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// Whatever a step prints, a picture has only our own two escape sequences, no
// line longer than the screen, and not more lines than the screen.
func TestLivePictureIsTame(t *testing.T) {
	t.Parallel()
	var steps []wire.StepDetail
	for i := range 100 {
		s := wire.StepDetail{ID: fmt.Sprint(i), Name: fmt.Sprintf("step-%d\x1b[2J", i), Status: step.StepQueued}
		if i > 40 && i < 60 {
			s.Status, s.Attempt = step.StepRunning, 1
		}
		steps = append(steps, s)
	}
	var b strings.Builder
	v := NewLive(&b, func() (int, int) { return 60, 20 })
	d := detail(step.RunRunning, steps...)
	v.Steps(d)
	for range 50 {
		v.Output(steps[45], 1, wire.Stdout, []byte("\x1b]0;title\x07\x1b[2J\x9b31m"+strings.Repeat("x", 500)+"\n"))
	}
	v.mu.Lock()
	picture := v.picture(time.Now(), 60, 20, false)
	v.mu.Unlock()
	v.Close(d)
	if len(picture) > 20 {
		t.Errorf("%d lines on a screen of 20", len(picture))
	}
	for _, line := range picture {
		plain := strings.ReplaceAll(strings.ReplaceAll(line, "\x1b[2m", ""), "\x1b[0m", "")
		if strings.ContainsFunc(plain, unicode.IsControl) {
			t.Errorf("control character in %q", line)
		}
		if n := len([]rune(plain)); n > 60 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

func TestLiveEndsWithEveryStep(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	v := NewLive(&b, func() (int, int) { return 80, 24 })
	v.Close(detail(step.RunFailed, ended("build", 0), ended("check", 1)))
	for _, want := range []string{"✓ build  succeeded, exit 0, 1.5s", "✗ check  failed, exit 1, 1.5s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %q", want, b.String())
		}
	}
}

func TestLongLinesAreBroken(t *testing.T) {
	t.Parallel()
	var l lines
	total, longest := 0, 0
	emit := func(s string) { total += len(s); longest = max(longest, len(s)) }
	for range 100 {
		l.add([]byte(strings.Repeat("y", 1000)), emit)
	}
	l.add([]byte(strings.Repeat("z", 20000)+"\n"), emit)
	l.flush(emit)
	if total != 120000 || longest > maxLine {
		t.Errorf("%d bytes, longest %d", total, longest)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 1<<20 - 1: "1.0MiB", 1 << 20: "1.0MiB", 5 << 30: "5.0GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0ms", 340 * time.Millisecond: "340ms", 12300 * time.Millisecond: "12.3s", 245 * time.Second: "4m05s", 2 * time.Hour: "2h00m"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %s, want %s", d, got, want)
		}
	}
	if got := Clean("a\tb\u202ec\xff\x1b"); got != "a    b·c··" {
		t.Errorf("Clean: %q", got)
	}
	if got := Cut("héllo", 4); got != "hél…" {
		t.Errorf("Cut: %q", got)
	}
}
