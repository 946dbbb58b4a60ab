// Package hclogslog turns the lines that a plugin writes to its stderr into
// slog records. The lines are whatever the plugin likes: hclog's JSON, plain
// text, garbage. Nothing in them can make Parse fail or grow without bound.
package hclogslog

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Bounds of one record.
const (
	MaxLine  = 16 << 10 // bytes of a line that are looked at
	maxAttrs = 32
	maxValue = 2 << 10 // bytes of a message or value
)

// Parse makes a record of one line, without its newline. A line that is not
// hclog's JSON becomes the message of a record at debug level; now is the time
// of a record that names none.
func Parse(line []byte, now time.Time) slog.Record {
	if len(line) > MaxLine {
		line = line[:MaxLine]
	}
	if trimmed := bytes.TrimSpace(line); len(trimmed) > 1 && trimmed[0] == '{' {
		if r, ok := parseJSON(trimmed, now); ok {
			return r
		}
	}
	return slog.NewRecord(now, plainLevel(line), bound(string(line)), 0)
}

// plainLevel is what the beginning of a plain line says of its weight.
func plainLevel(line []byte) slog.Level {
	for prefix, level := range map[string]slog.Level{
		"[ERROR]": slog.LevelError, "panic: ": slog.LevelError, "fatal error: ": slog.LevelError,
		"[WARN]": slog.LevelWarn, "[INFO]": slog.LevelInfo,
	} {
		if bytes.HasPrefix(line, []byte(prefix)) {
			return level
		}
	}
	return slog.LevelDebug
}

func parseJSON(line []byte, now time.Time) (slog.Record, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) != nil {
		return slog.Record{}, false
	}
	message, ok := text(fields["@message"])
	if !ok {
		return slog.Record{}, false
	}
	level, at := slog.LevelInfo, now
	if s, ok := text(fields["@level"]); ok {
		level = levelOf(s)
	}
	if s, ok := text(fields["@timestamp"]); ok {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			at = t
		}
	}
	r := slog.NewRecord(at, level, bound(message), 0)
	names := make([]string, 0, len(fields))
	for name := range fields {
		switch name {
		case "@message", "@level", "@timestamp", "@caller":
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	dropped := len(names) - maxAttrs
	for _, name := range names[:min(len(names), maxAttrs)] {
		key := strings.TrimPrefix(name, "@")
		if len(key) > 64 {
			key = strings.ToValidUTF8(key[:64], "\uFFFD")
		}
		if s, ok := text(fields[name]); ok {
			r.AddAttrs(slog.String(key, bound(s)))
		} else {
			r.AddAttrs(slog.String(key, bound(string(fields[name]))))
		}
	}
	if dropped > 0 {
		r.AddAttrs(slog.Int("dropped_attrs", dropped))
	}
	return r, true
}

// text is a JSON value that is a string.
func text(raw json.RawMessage) (string, bool) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

func levelOf(s string) slog.Level {
	switch strings.ToLower(s) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// bound cuts a text and makes it valid UTF-8 without control characters.
func bound(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
