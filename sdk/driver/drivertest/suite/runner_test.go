package suite

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	t.Parallel()
	var order []string
	var temp string
	for name, c := range map[string]struct {
		f    func(T)
		want Status
		seen string
	}{
		"passes":        {func(t T) { t.Logf("by the way %d", 1) }, Passed, "by the way 1"},
		"fails":         {func(t T) { t.Errorf("bad %d", 1); t.Error("worse", 2) }, Failed, "bad 1|worse 2"},
		"ends":          {func(t T) { t.Fatalf("bad"); t.Error("not reached") }, Failed, "bad"},
		"skips":         {func(t T) { t.Skip("no", "need"); t.Error("not reached") }, Skipped, "no need"},
		"panics":        {func(T) { panic("oh") }, Failed, "panic: oh"},
		"cleanup fails": {func(t T) { t.Cleanup(func() { t.Fatal("left over") }) }, Failed, "left over"},
		"cleans up": {func(t T) {
			temp = t.TempDir()
			t.Cleanup(func() { order = append(order, "second") })
			t.Cleanup(func() {
				if t.Context().Err() != nil {
					order = append(order, "first")
				}
			})
			t.Fatal("x")
		}, Failed, "x"},
		"fails after a skip": {func(t T) { t.Cleanup(func() { t.Error("left over") }); t.Skip("no need") }, Failed, "no need|left over"},
	} {
		r := Try(t.Context(), name, GroupExec, time.Minute, c.f)
		if got := strings.Join(r.Seen, "|"); r.Status != c.want || !strings.HasPrefix(got, c.seen) || r.Name != name || r.Group != GroupExec {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if !slices.Equal(order, []string{"first", "second"}) {
		t.Errorf("cleanups: %v", order)
	}
	if _, err := os.Stat(temp); temp == "" || !os.IsNotExist(err) {
		t.Errorf("the temporary folder %q is left: %v", temp, err)
	}
}

// A case that passes its time fails with its context, and its cleanups run.
func TestTryTimeout(t *testing.T) {
	t.Parallel()
	cleaned := false
	r := Try(t.Context(), "slow", GroupExec, 10*time.Millisecond, func(t T) {
		t.Cleanup(func() { cleaned = true })
		<-t.Context().Done()
	})
	if r.Status != Failed || !cleaned || !strings.Contains(r.Seen[0], "more than 10ms") {
		t.Errorf("%+v, cleaned %v", r, cleaned)
	}
}

func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	told := 0
	results := Run(ctx, Factory{}, Cases(), Options{Done: func(Result) { told++ }})
	if len(results) != len(Cases()) || told != len(results) {
		t.Fatalf("%d results, %d told", len(results), told)
	}
	for _, r := range results {
		if r.Status != Skipped {
			t.Errorf("%+v", r)
		}
	}
}
