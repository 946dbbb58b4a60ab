package retry_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/api/internal/retry"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

type causes = []step.Cause

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    wire.Retry
		want []string // places
	}{
		"nothing": {wire.Retry{}, nil},
		"all of it": {wire.Retry{Attempts: 20, BackoffMS: 1000, MaxBackoffMS: 86_400_000, On: causes{"exit", "timeout", "lost"}, ExitCodes: []int{1, 75, 255},
			NeverOn: causes{"oom"}, NeverExitCodes: []int{2}}, nil},
		"too many attempts":  {wire.Retry{Attempts: 21}, []string{"attempts"}},
		"fewer than none":    {wire.Retry{Attempts: -1, BackoffMS: -1, MaxBackoffMS: -1}, []string{"attempts", "backoff_ms", "max_backoff_ms"}},
		"too long":           {wire.Retry{BackoffMS: 86_400_001, MaxBackoffMS: 86_400_001}, []string{"backoff_ms", "max_backoff_ms"}},
		"ceiling below":      {wire.Retry{BackoffMS: 1000, MaxBackoffMS: 999}, []string{"max_backoff_ms"}},
		"unknown cause":      {wire.Retry{On: causes{"exit", "bad luck"}, NeverOn: causes{""}}, []string{"on[1]", "never_on[0]"}},
		"never by nature":    {wire.Retry{On: causes{"cancelled", "policy"}}, []string{"on[0]", "on[1]"}},
		"twice":              {wire.Retry{On: causes{"oom", "oom"}, ExitCodes: []int{3, 3}}, []string{"on[1]", "exit_codes[1]"}},
		"both ways":          {wire.Retry{On: causes{"oom"}, NeverOn: causes{"oom"}, ExitCodes: []int{3}, NeverExitCodes: []int{4, 3}}, []string{"never_on[0]", "never_exit_codes[1]"}},
		"success is no code": {wire.Retry{ExitCodes: []int{0}, NeverExitCodes: []int{256, -1}}, []string{"exit_codes[0]", "never_exit_codes[0]", "never_exit_codes[1]"}},
		"long lists":         {wire.Retry{ExitCodes: make([]int, 65), NeverOn: make(causes, 65)}, []string{"never_on", "exit_codes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, f := range retry.Check(tc.r) {
				got = append(got, f.Location)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOver(t *testing.T) {
	t.Parallel()
	handlers := &wire.Retry{Attempts: 3, BackoffMS: 500, MaxBackoffMS: 4000, NeverExitCodes: []int{2}}
	for name, tc := range map[string]struct {
		own, handlers *wire.Retry
		want          wire.Retry
	}{
		"neither":            {nil, nil, wire.Retry{Attempts: 1}},
		"the handler's":      {nil, handlers, *handlers},
		"the step's":         {&wire.Retry{Attempts: 2}, nil, wire.Retry{Attempts: 2}},
		"part of each":       {&wire.Retry{BackoffMS: 100}, handlers, wire.Retry{Attempts: 3, BackoffMS: 100, MaxBackoffMS: 4000, NeverExitCodes: []int{2}}},
		"the lists together": {&wire.Retry{On: causes{"exit"}}, handlers, wire.Retry{Attempts: 3, BackoffMS: 500, MaxBackoffMS: 4000, On: causes{"exit"}}},
		"an empty list":      {&wire.Retry{On: causes{}}, handlers, wire.Retry{Attempts: 3, BackoffMS: 500, MaxBackoffMS: 4000, On: causes{}}},
		"once":               {&wire.Retry{Attempts: 1}, handlers, wire.Retry{Attempts: 1, BackoffMS: 500, MaxBackoffMS: 4000, NeverExitCodes: []int{2}}},
		"another's ceiling":  {&wire.Retry{BackoffMS: 9000}, handlers, wire.Retry{Attempts: 3, BackoffMS: 4000, MaxBackoffMS: 4000, NeverExitCodes: []int{2}}},
	} {
		if diff := cmp.Diff(tc.want, retry.Over(tc.own, tc.handlers)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	exit := func(code int) step.Verdict { return step.Verdict{Cause: step.CauseExit, ExitCode: &code} }
	end := func(c step.Cause) step.Verdict { return step.Verdict{Cause: c} }
	for name, tc := range map[string]struct {
		r       wire.Retry
		yes, no []step.Verdict
	}{
		"without lists":    {wire.Retry{}, []step.Verdict{exit(1), end("timeout"), end("oom"), end("signal")}, nil},
		"causes":           {wire.Retry{On: causes{"timeout", "oom"}}, []step.Verdict{end("timeout"), end("oom")}, []step.Verdict{exit(1), end("signal")}},
		"any exit":         {wire.Retry{On: causes{"exit"}}, []step.Verdict{exit(1), exit(9)}, []step.Verdict{end("oom")}},
		"codes":            {wire.Retry{ExitCodes: []int{75}}, []step.Verdict{exit(75)}, []step.Verdict{exit(1), end("timeout")}},
		"causes and codes": {wire.Retry{On: causes{"timeout"}, ExitCodes: []int{75}}, []step.Verdict{exit(75), end("timeout")}, []step.Verdict{exit(1), end("oom")}},
		"exit and codes":   {wire.Retry{On: causes{"exit"}, ExitCodes: []int{75}}, []step.Verdict{exit(75)}, []step.Verdict{exit(1)}},
		"never a cause":    {wire.Retry{NeverOn: causes{"oom"}}, []step.Verdict{exit(1)}, []step.Verdict{end("oom")}},
		"never a code":     {wire.Retry{On: causes{"exit"}, NeverExitCodes: []int{2}}, []step.Verdict{exit(1)}, []step.Verdict{exit(2)}},
	} {
		for _, v := range tc.yes {
			if !retry.Allows(tc.r, v) {
				t.Errorf("%s: %s is not tried again", name, v)
			}
		}
		for _, v := range tc.no {
			if retry.Allows(tc.r, v) {
				t.Errorf("%s: %s is tried again", name, v)
			}
		}
	}
}

// The wait is drawn from all of 0 to the most, and the most doubles up to the
// ceiling.
func TestWait(t *testing.T) {
	t.Parallel()
	most := func(n int64) int64 { return n - 1 }
	least := func(int64) int64 { return 0 }
	var got []time.Duration
	for n := range 6 {
		got = append(got, retry.Wait(time.Second, 10*time.Second, n, 0, most))
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}
	if !slices.Equal(got, want) {
		t.Errorf("at most %v, want %v", got, want)
	}
	for name, tc := range map[string]struct{ got, want time.Duration }{
		"full jitter begins at nothing": {retry.Wait(time.Second, 0, 5, 0, least), 0},
		"no ceiling is an hour":         {retry.Wait(time.Second, 0, 1000, 0, most), time.Hour},
		"no backoff":                    {retry.Wait(0, 0, 5, 0, most), 0},
		"first above the ceiling":       {retry.Wait(time.Minute, time.Second, 0, 0, most), time.Second},
		"the driver asks for more":      {retry.Wait(time.Second, 0, 0, time.Minute, most), time.Minute},
		"the driver asks for less":      {retry.Wait(time.Minute, 0, 0, time.Second, most), time.Minute},
		"the driver asks for too much":  {retry.Wait(0, 0, 0, 1000*time.Hour, most), 24 * time.Hour},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
}
