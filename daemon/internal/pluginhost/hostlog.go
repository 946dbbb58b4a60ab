package pluginhost

import (
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hostLogger is the logger that go-plugin gets: it prints nothing itself, and
// what it says of its own work goes to log at debug level.
func hostLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Off})
	l.RegisterSink(sink{log})
	return l
}

type sink struct{ log *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level >= hclog.Info {
		s.log.Debug(msg, append([]any{"from", "go-plugin"}, args...)...)
	}
}
