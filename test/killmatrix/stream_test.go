package killmatrix

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Whoever follows a run hears of its end over as many connections as it takes; a
// stream that hangs, or ends too early for ever, makes its cell red.
func TestStreamThatHangs(t *testing.T) {
	t.Parallel()
	all := []step.Event{{ID: "1", Type: step.EventRunCreated}, {ID: "2", Type: step.EventStepStarted}, {ID: "3", Type: step.EventRunSucceeded}}
	for name, c := range map[string]struct {
		read func(ctx context.Context, last string, do func([]step.Event) error) error
		want string
		seen int
	}{
		"breaks after each": {
			read: func(_ context.Context, last string, do func([]step.Event) error) error {
				for i, e := range all {
					if e.ID > last {
						return errors.Join(do(all[i:i+1]), errors.New("broken"))
					}
				}
				return nil
			},
			seen: 3,
		},
		"hangs": {
			read: func(ctx context.Context, last string, do func([]step.Event) error) error {
				if last == "" {
					return do(all[:2])
				}
				<-ctx.Done()
				return ctx.Err()
			},
			want: `2 events came, the last is "2"`, seen: 2,
		},
		"ends too early": {
			read: func(_ context.Context, last string, do func([]step.Event) error) error {
				if last == "" {
					return do(all[:1])
				}
				return nil
			},
			want: `1 events came, the last is "1"`, seen: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			seen := 0
			err := stream(ctx, c.read, func(step.Event) { seen++ })
			if seen != c.seen || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("saw %d events, %v", seen, err)
			}
			o := outcome{recovery: time.Second}
			if err != nil {
				o.wrong = append(o.wrong, err.Error())
			}
			if got := sum([]outcome{o}); got.lost != len(o.wrong) {
				t.Errorf("the cell is %s", got)
			}
		})
	}
}

// What is on the host for longer than its host needs to clear it away makes its
// cell red, though a sweep removes it in the end.
func TestLateIsLeaked(t *testing.T) {
	t.Parallel()
	for clean, want := range map[time.Duration]int{cleanBound: 0, cleanBound + time.Second: 1} {
		if got := sum([]outcome{{clean: clean}}); got.leaked != want {
			t.Errorf("clean after %v: %s", clean, got)
		}
	}
}
