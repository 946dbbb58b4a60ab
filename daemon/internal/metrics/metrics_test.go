package metrics

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestNamesAndValues(t *testing.T) {
	t.Parallel()
	m := New()
	m.Claimed(3)
	m.Ended("local", step.CauseOOM, time.Second)
	m.Shipped(5, nil)
	m.Shipped(5, errors.New("away"))
	m.Heartbeat(nil)
	problems, err := testutil.GatherAndLint(m.Registry())
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if got := testutil.ToFloat64(m.claimed); got != 3 {
		t.Errorf("claimed %v", got)
	}
	if got := testutil.ToFloat64(m.ended.WithLabelValues("local", "oom")); got != 1 {
		t.Errorf("ended %v", got)
	}
	if got := testutil.ToFloat64(m.shipped); got != 5 {
		t.Errorf("shipped %v", got)
	}
	if age := m.HeartbeatAge(); age < 0 || age > time.Minute {
		t.Errorf("age %v", age)
	}
}
