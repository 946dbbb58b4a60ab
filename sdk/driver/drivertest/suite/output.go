package suite

import (
	"bytes"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func outputCases() []testCase {
	return []testCase{
		{"Streams", func(t T, fx *fixture) {
			out, err := "to stdout\nno newline at the end", "to stderr\r\n\x01 grüße"
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Print(out, err)))
			if string(r.stdout) != out || string(r.stderr) != err {
				t.Errorf("stdout %q and stderr %q, want %q and %q", r.stdout, r.stderr, out, err)
			}
			if r.exit.TotalBytes != int64(len(out)+len(err)) || r.exit.Truncated {
				t.Errorf("exit says %d bytes, truncated %v", r.exit.TotalBytes, r.exit.Truncated)
			}
		}},
		{"NoOutput", func(t T, fx *fixture) {
			r := fx.run(t, fx.create(t), fx.exec(fx.Programs.Exit(0)))
			if r.events != 1 || r.exit.TotalBytes != 0 || r.exit.OutputBytes != 0 {
				t.Errorf("%d events, exit %+v; want the exit alone", r.events, *r.exit)
			}
		}},
		{"LargeOutput", func(t T, fx *fixture) {
			const n = 20_000_000
			h := fx.create(t)
			s := fx.exec(fx.Programs.Flood(n))
			want := FloodBytes(n)
			r := fx.run(t, h, s)
			sameBytes(t, "exec", r.stdout, want)
			if r.exit.TotalBytes != n || r.exit.Truncated {
				t.Errorf("exit says %d bytes, truncated %v", r.exit.TotalBytes, r.exit.Truncated)
			}
			sameBytes(t, "attach from 0", fx.attach(t, h, s.ID, 0).stdout, want)
		}},
		{"AttachFromAnyOffset", func(t T, fx *fixture) {
			const n = 300_000
			h := fx.create(t)
			s := fx.exec(fx.Programs.Flood(n))
			fx.run(t, h, s)
			want := FloodBytes(n)
			for _, off := range []int64{0, 1, 4095, 65536, 131073, n - 1, n, n + 1, 1 << 40} {
				r := fx.attach(t, h, s.ID, off)
				sameBytes(t, "attach", r.stdout, want[min(off, n):])
				if r.exit.Cause != step.CauseExit || r.exit.Code != 0 {
					t.Errorf("attach from %d: exit %+v", off, *r.exit)
				}
			}
			err := fx.d.Attach(fx.ctx(t), h, s.ID, -1, ignore)
			wantKind(t, "attach from -1", err, step.KindInvalid)
			err = fx.d.Attach(fx.ctx(t), h, "no-such-exec", 0, ignore)
			wantKind(t, "attach to no exec", err, step.KindNotFound)
		}},
		{"AttachFollows", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.start(t, h, fx.exec(fx.Programs.Count(15, 50*time.Millisecond)))
			x.until(t, fx.ctx(t), "3\n")
			r := fx.attach(t, h, x.spec.ID, 2) // from the second line on, before it has ended
			if string(r.stdout) != countLines(15)[2:] {
				t.Errorf("attach while it runs: %q", r.stdout)
			}
			if r := x.wait(t); string(r.stdout) != countLines(15) {
				t.Errorf("the exec itself: %q", r.stdout)
			}
		}},
		{"OutputComesAsItIsWritten", func(t T, fx *fixture) {
			h := fx.create(t)
			x := fx.startReady(t, h, fx.exec(fx.Programs.Wait(time.Minute)))
			if err := fx.d.Signal(fx.ctx(t), h, x.spec.ID, "SIGTERM"); err != nil {
				t.Errorf("signal: %v", err)
			}
			x.wait(t)
		}},
		{"SlowReader", func(t T, fx *fixture) {
			const n = 8_000_000
			h := fx.create(t)
			s := fx.exec(fx.Programs.Flood(n))
			c := newCollector(0)
			paused := false
			err := fx.d.Exec(fx.ctx(t), h, s, func(e driver.ExecEvent) error {
				if !paused {
					paused = true
					fx.pause(t, 500*time.Millisecond)
				}
				return c.sink(e)
			})
			if err != nil {
				t.Fatalf("exec: %v", err)
			}
			sameBytes(t, "a slow reader", c.finish(t).stdout, FloodBytes(n))
		}},
		{"OutputTruncated", func(t T, fx *fixture) {
			fx.need(t, driver.CapOutput, nil) // the refusal is in RefusesWhatItCannot
			const n, limit = 1_000_000, 100_000
			h := fx.create(t)
			s := fx.exec(fx.Programs.Flood(n), func(e *driver.ExecSpec) { e.OutputLimit, e.OnOutput = limit, step.OutputTruncate })
			r := fx.run(t, h, s)
			sameBytes(t, "the kept part", r.stdout[:min(len(r.stdout), limit)], FloodBytes(limit))
			if len(r.all) > limit+1024 {
				t.Errorf("%d bytes came of %d allowed", len(r.all), limit)
			}
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 || !r.exit.Truncated || r.exit.TotalBytes != n {
				t.Errorf("exit %+v; want exit 0, truncated, %d bytes in all", *r.exit, n)
			}
			sameBytes(t, "attach", fx.attach(t, h, s.ID, 0).all, r.all)
		}},
		{"OutputKills", func(t T, fx *fixture) {
			fx.need(t, driver.CapOutput, nil)
			const limit = 100_000
			h := fx.create(t)
			r := fx.run(t, h, fx.exec(fx.Programs.Flood(200_000_000), func(e *driver.ExecSpec) { e.OutputLimit, e.OnOutput = limit, step.OutputKill }))
			sameBytes(t, "the kept part", r.stdout[:min(len(r.stdout), limit)], FloodBytes(limit))
			if r.exit.Cause != step.CauseOutput || !r.exit.Truncated || len(r.all) > limit+1024 {
				t.Errorf("exit %+v after %d bytes; want cause output", *r.exit, len(r.all))
			}
			// Exactly as much as is allowed is no offence.
			r = fx.run(t, fx.create(t), fx.exec(fx.Programs.Flood(limit), func(e *driver.ExecSpec) { e.OutputLimit, e.OnOutput = limit, step.OutputKill }))
			if r.exit.Cause != step.CauseExit || r.exit.Code != 0 || r.exit.Truncated {
				t.Errorf("output of exactly the limit: exit %+v", *r.exit)
			}
		}},
	}
}

// countLines is what Count(n, …) writes.
func countLines(n int) string {
	lines := FloodBytes(int64(7 * n))
	at := 0
	for range n {
		at += bytes.IndexByte(lines[at:], '\n') + 1
	}
	return string(lines[:at])
}

// sameBytes compares long byte strings and says where they differ.
func sameBytes(t T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: %d bytes, want %d; they differ from byte %d on", what, len(got), len(want), i)
}
