package metrics

import (
	"errors"
	"strings"
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

func TestPlugins(t *testing.T) {
	t.Parallel()
	m := New()
	m.PluginStarted("local")
	m.PluginState("local", true, false)
	m.PluginDied("modal")
	m.PluginRefused("modal", "swapped")
	m.PluginState("modal", false, true)
	m.PluginState("e2b", true, false)
	m.PluginGone("e2b")
	problems, err := testutil.GatherAndLint(m.Registry())
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	want := `
# HELP nofx_plugin_deaths_total Processes of driver plugins that ended unasked, hung or could not be started.
# TYPE nofx_plugin_deaths_total counter
nofx_plugin_deaths_total{driver="local"} 0
nofx_plugin_deaths_total{driver="modal"} 1
# HELP nofx_plugin_healthy Whether the driver can take work.
# TYPE nofx_plugin_healthy gauge
nofx_plugin_healthy{driver="local"} 1
nofx_plugin_healthy{driver="modal"} 0
# HELP nofx_plugin_quarantined Whether the driver's plugin is left alone after it was refused or died too often.
# TYPE nofx_plugin_quarantined gauge
nofx_plugin_quarantined{driver="local"} 0
nofx_plugin_quarantined{driver="modal"} 1
# HELP nofx_plugin_refused_total Driver plugins that were not run, by reason.
# TYPE nofx_plugin_refused_total counter
nofx_plugin_refused_total{driver="modal",reason="swapped"} 1
# HELP nofx_plugin_starts_total Processes of driver plugins that were started, checked and configured.
# TYPE nofx_plugin_starts_total counter
nofx_plugin_starts_total{driver="local"} 1
`
	if err := testutil.GatherAndCompare(m.Registry(), strings.NewReader(want), "nofx_plugin_starts_total", "nofx_plugin_deaths_total",
		"nofx_plugin_refused_total", "nofx_plugin_quarantined", "nofx_plugin_healthy"); err != nil {
		t.Error(err)
	}
}
