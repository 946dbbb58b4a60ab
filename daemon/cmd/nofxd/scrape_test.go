package main

import (
	"context"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/memdriver"
)

// counting is the plugins' driver: the one that is called mute never says what
// it has counted, the one that is called mad says nonsense.
type counting struct {
	*memdriver.Driver
	name string
}

func (c counting) Metrics(context.Context) ([]driver.Sample, error) {
	s := driver.Sample{Name: driver.SamplePrefix(c.name) + "wonders_total", Kind: driver.Counter, Labels: map[string]string{"of": "the world"}, Value: 7}
	switch c.name {
	case "mute":
		select {} // not even the end of its context moves it
	case "mad":
		s.Name = "nofx_daemon_claims_total"
	}
	return []driver.Sample{s}, nil
}

// What the plugins count is among the daemon's metrics; those that cannot say
// it spoil nothing.
func TestPluginsMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, "scrape", 2070131072)
	for _, name := range []string{"one", "mute", "mad"} {
		r.plugin(name)
	}
	r.configure("{one: {}, mute: {}, mad: {}}")
	r.start()
	for _, name := range []string{"one", "mute", "mad"} {
		r.metric(`nofx_plugin_healthy{driver="` + name + `"} 1`)
	}
	r.logged(`"protocol":2`)
	body := r.metrics()
	for _, line := range []string{
		"# TYPE nofx_one_wonders_total counter", `nofx_one_wonders_total{driver="one",of="the world"} 7`, "nofx_daemon_claims_total 0",
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("there is no %s in\n%s", line, body)
		}
	}
	for _, name := range []string{"mute", "mad"} {
		if strings.Contains(body, "nofx_"+name) || strings.Contains(body, `nofx_plugin_scrape_failures_total{driver="`+name+`"} 0`) {
			t.Errorf("of driver %s:\n%s", name, body)
		}
	}
}
