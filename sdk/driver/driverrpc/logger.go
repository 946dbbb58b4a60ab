package driverrpc

import (
	"log/slog"
	"os"
	"strings"
)

// NewLogger makes a logger for a driver: it writes lines of hclog's JSON form
// to the present stderr, which the plugin host takes apart again. Make it
// before Serve, which puts another file in os.Stderr's place.
func NewLogger(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: hclogKeys}))
}

// hclogKeys renames slog's own keys to hclog's.
func hclogKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "@timestamp"
	case slog.MessageKey:
		a.Key = "@message"
	case slog.LevelKey:
		a.Key = "@level"
		if l, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(strings.ToLower(l.String()))
		}
	}
	return a
}
