package suite

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
	"github.com/nofx-run/nofx/sdk/step"
)

// late makes the sandbox and loses the answer, as when the call is given up.
type late struct {
	driver.Driver
	owner string
}

func (l *late) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	l.owner = s.Tags.Owner
	if _, err := l.Driver.Create(ctx, s); err != nil {
		return driver.Handle{}, err
	}
	return driver.Handle{}, step.Errorf(step.KindUnavailable, "the answer was lost")
}

func TestLostCreationsAreRemoved(t *testing.T) {
	t.Parallel()
	d := &late{Driver: memdriver.New(memdriver.NewWorld(), memdriver.Options{})}
	f := Factory{
		Config: json.RawMessage(`{}`), Programs: InMemory(), Patience: 1,
		Open: func(T) Instance { return Instance{Driver: d} },
	}
	for _, c := range Cases() {
		if c.Name != "ExitCodes" {
			continue
		}
		if r := Try(t.Context(), c.Name, c.Group, time.Minute, func(t T) { c.Run(t, f) }); r.Status != Failed {
			t.Errorf("%+v", r)
		}
	}
	if left, err := d.List(t.Context(), d.owner); err != nil || len(left) > 0 || d.owner == "" {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A driver may declare whatever the SDK has a name for.
func TestDescribeKnowsTenant(t *testing.T) {
	t.Parallel()
	caps := append(memdriver.AllCapabilities(), driver.CapTenant)
	f := Factory{Programs: InMemory(), Open: func(T) Instance {
		return Instance{Driver: memdriver.New(memdriver.NewWorld(), memdriver.Options{Capabilities: caps})}
	}}
	for _, c := range Cases() {
		if c.Name != "Describe" {
			continue
		}
		if r := Try(t.Context(), c.Name, c.Group, time.Minute, func(t T) { c.Run(t, f) }); r.Status != Passed {
			t.Errorf("%+v", r)
		}
	}
}
