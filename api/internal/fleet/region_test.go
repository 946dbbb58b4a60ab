package fleet

import (
	"testing"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/driver"
)

// seen is a fleet whose rows were read a moment ago.
func seen(t *testing.T, rows ...pgdb.FleetRow) *Workers {
	t.Helper()
	p, err := draw(rows)
	if err != nil {
		t.Fatal(err)
	}
	return &Workers{last: p, until: time.Now().Add(time.Hour)}
}

func row(id, region, status, drivers string) pgdb.FleetRow {
	return pgdb.FleetRow{ID: id, Region: region, Status: status, Drivers: []byte(drivers)}
}

const (
	both = `[{"name":"local","healthy":true},{"name":"container","healthy":true}]`
	one  = `[{"name":"local","healthy":true},{"name":"container"}]`
	far  = `[{"name":"local","healthy":true},{"name":"e2b","healthy":true,"region":"us-1"}]`
)

func TestPlace(t *testing.T) {
	t.Parallel()
	w := seen(t, row("1", "eu-1", "live", one), row("2", "eu-2", "live", both), row("3", "eu-3", "lost", both), row("4", "eu-4", "draining", both), row("5", "eu-5", "live", far))
	for name, tc := range map[string]struct {
		order, residency, drivers []string
		want                      string
	}{
		"anywhere":                           {nil, nil, []string{"local"}, ""},
		"the first":                          {[]string{"eu-2", "eu-1"}, nil, []string{"local"}, "eu-2"},
		"the first that has it":              {[]string{"eu-1", "eu-2"}, nil, []string{"container"}, "eu-2"},
		"not a lost one, not a draining one": {[]string{"eu-3", "eu-4", "eu-1"}, nil, []string{"local"}, "eu-1"},
		"nobody":                             {[]string{"mars", "eu-3"}, nil, []string{"local"}, "mars"},
		"one worker has all":                 {[]string{"eu-1", "eu-2"}, nil, []string{"local", "container"}, "eu-2"},
		"nobody has all":                     {[]string{"mars", "eu-1", "eu-2"}, nil, []string{"local", "modal"}, "eu-1"},
		"where the driver is":                {[]string{"eu-5", "us-1"}, nil, []string{"e2b"}, "us-1"},
		"its host is outside":                {[]string{"us-1", "us-2"}, []string{"us-1", "us-2"}, []string{"e2b"}, "us-1"},
		"both are inside":                    {[]string{"eu-1", "us-1"}, []string{"us-1", "eu-5", "eu-1"}, []string{"e2b"}, "us-1"},
	} {
		got, err := w.Place(t.Context(), tc.order, tc.residency, tc.drivers)
		if err != nil || got != tc.want {
			t.Errorf("%s: %q %v, want %q", name, got, err, tc.want)
		}
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	no, yes := false, true
	older, newer := row("7", "af-1", "live", one), row("8", "af-2", "live", one)
	older.Layers, newer.Layers = &no, &yes
	w := seen(t, older, newer, row("1", "eu-1", "live", one), row("2", "eu-2", "live", both), row("5", "eu-5", "live", far), row("6", "eu-1", "lost", one))
	for name, tc := range map[string]struct {
		want Want
		text string
	}{
		"nothing":               {Want{Driver: "local"}, ""},
		"nothing, there":        {Want{Driver: "local", Region: "eu-1", Order: []string{"eu-1"}}, ""},
		"the driver":            {Want{Driver: "modal"}, "a worker with the driver modal: no live one has it healthy"},
		"the driver, there":     {Want{Driver: "container", Region: "eu-1", Order: []string{"eu-1"}}, "a worker in eu-1 with the driver container: no live one has it healthy"},
		"it can go elsewhere":   {Want{Driver: "container", Region: "eu-1", Order: []string{"eu-1", "mars", "eu-2"}}, "a worker in eu-1 with the driver container: no live one has it healthy; if that lasts, the step goes to eu-2"},
		"nowhere of its order":  {Want{Driver: "container", Region: "eu-1", Order: []string{"eu-1", "mars"}}, "a worker in eu-1 with the driver container: no live one has it healthy, there or elsewhere in eu-1, mars"},
		"the driver is outside": {Want{Driver: "e2b", Residency: []string{"eu-5"}}, "a worker with the driver e2b in eu-5, the tenant's residency: no live one has it healthy there"},
		"its worker is outside": {Want{Driver: "e2b", Region: "us-1", Order: []string{"us-1"}, Residency: []string{"us-1"}}, "a worker in us-1 with the driver e2b: no live one has it healthy"},
		"both are inside":       {Want{Driver: "e2b", Region: "us-1", Order: []string{"us-1"}, Residency: []string{"us-1", "eu-5"}}, ""},
		"to put it together":    {Want{Driver: "local", Region: "af-1", Layers: true}, "a worker with the driver local that can put the run's workspace together: those that are there have an older nofxd"},
		"nothing to put":        {Want{Driver: "local", Region: "af-1"}, ""},
		"one that can":          {Want{Driver: "local", Region: "af-2", Layers: true}, ""},
		"one that may":          {Want{Driver: "local", Region: "eu-1", Layers: true}, ""},
		"anywhere":              {Want{Driver: "local", Layers: true}, ""},
		"pinned":                {Want{Driver: "local", Pin: "1", Region: "eu-1"}, ""},
		"pinned, the driver":    {Want{Driver: "container", Pin: "1"}, "the driver container on the worker that has the run's workspace"},
		"pinned, away":          {Want{Driver: "local", Pin: "6"}, "the worker that has the run's workspace, which is away"},
		"pinned elsewhere":      {Want{Driver: "local", Pin: "1", Region: "eu-2"}, "a worker in eu-2: the one that has the run's workspace has the driver local in eu-1"},
		"pinned outside":        {Want{Driver: "local", Pin: "1", Region: "eu-2", Residency: []string{"eu-2"}}, "a worker in eu-2, the tenant's residency: the one that has the run's workspace is in eu-1"},
	} {
		got, err := w.Lacks(t.Context(), tc.want)
		if err != nil || got != tc.text {
			t.Errorf("%s: %q %v, want %q", name, got, err, tc.text)
		}
	}
}

// Where only some of those who have the driver can do the step, it is said what it
// takes; where none can, the next claim ends it.
func TestLacksCapability(t *testing.T) {
	t.Parallel()
	const lesser = `[{"name":"local","healthy":true,"capabilities":["lease"]}]`
	const better = `[{"name":"local","healthy":true,"capabilities":["lease","isolation.gvisor"]}]`
	w := seen(t, row("1", "eu-1", "live", lesser), row("2", "eu-2", "live", better), row("3", "eu-3", "live", better))
	gvisor := []driver.Capability{"lease", "isolation.gvisor"}
	for name, tc := range map[string]struct {
		want Want
		text string
	}{
		"nothing":           {Want{Driver: "local", Needs: gvisor[:1]}, ""},
		"some have it":      {Want{Driver: "local", Needs: gvisor}, "a worker whose driver local has the capability isolation.gvisor"},
		"all there have it": {Want{Driver: "local", Region: "eu-2", Needs: gvisor}, ""},
		"nobody there has":  {Want{Driver: "local", Region: "eu-1", Needs: gvisor}, ""},
		"all who may":       {Want{Driver: "local", Residency: []string{"eu-2", "eu-3"}, Needs: gvisor}, ""},
		"pinned":            {Want{Driver: "local", Pin: "1", Needs: gvisor}, "a worker whose driver local has the capability isolation.gvisor: that of the worker with the run's workspace lacks it, and the step goes on elsewhere when no other is at work there"},
		"pinned, it has it": {Want{Driver: "local", Pin: "2", Needs: gvisor}, ""},
		"the driver":        {Want{Driver: "modal", Needs: gvisor}, "a worker with the driver modal: no live one has it healthy"},
	} {
		got, err := w.Lacks(t.Context(), tc.want)
		if err != nil || got != tc.text {
			t.Errorf("%s: %q %v, want %q", name, got, err, tc.text)
		}
	}
}

func TestWhere(t *testing.T) {
	t.Parallel()
	w := seen(t, row("5", "eu-5", "lost", far))
	for driver, want := range map[string]string{"local": "eu-5", "e2b": "us-1", "modal": ""} {
		if host, region, err := w.Where(t.Context(), "5", driver); host != "eu-5" || region != want || err != nil {
			t.Errorf("%s: %s %s %v", driver, host, region, err)
		}
	}
	if host, region, err := w.Where(t.Context(), "x", "local"); host != "" || region != "" || err != nil {
		t.Errorf("%s %s %v", host, region, err)
	}
}
