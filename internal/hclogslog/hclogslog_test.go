package hclogslog

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name, line, message string
		level               slog.Level
		attrs               string
	}{
		{"hclog", `{"@level":"warn","@message":"slow","@module":"local","@timestamp":"2026-01-01T00:00:00.5Z","n":3,"who":"x"}`, "slow", slog.LevelWarn, "module=local n=3 who=x"},
		{"trace", `{"@level":"trace","@message":"m"}`, "m", slog.LevelDebug, ""},
		{"unknown level", `{"@level":7,"@message":"m"}`, "m", slog.LevelInfo, ""},
		{"plain", "hello", "hello", slog.LevelDebug, ""},
		{"panic", "panic: runtime error", "panic: runtime error", slog.LevelError, ""},
		{"marked", "[WARN] disk", "[WARN] disk", slog.LevelWarn, ""},
		{"number as message", `{"@message":1}`, `{"@message":1}`, slog.LevelDebug, ""},
		{"null everywhere", `{"@message":null,"@level":null}`, `{"@message":null,"@level":null}`, slog.LevelDebug, ""},
		{"no message", `{"a":1}`, `{"a":1}`, slog.LevelDebug, ""},
		{"odd timestamp", `{"@message":"m","@timestamp":{"a":[1]}}`, "m", slog.LevelInfo, ""},
		{"nested", `{"@message":"m","a":{"b":[1,2]}}`, "m", slog.LevelInfo, `a={"b":[1,2]}`},
		{"array", `[1,2]`, `[1,2]`, slog.LevelDebug, ""},
		{"half", `{"@message":"m"`, `{"@message":"m"`, slog.LevelDebug, ""},
		{"control characters", "a\x1b[31mb\rc", "a [31mb c", slog.LevelDebug, ""},
		{"not UTF-8", "a\xff", "a\uFFFD", slog.LevelDebug, ""},
		{"empty", "", "", slog.LevelDebug, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := Parse([]byte(c.line), now)
			var attrs []string
			r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a.String()); return true })
			if r.Message != c.message || r.Level != c.level || strings.Join(attrs, " ") != c.attrs {
				t.Errorf("got %v %q %q, want %v %q %q", r.Level, r.Message, attrs, c.level, c.message, c.attrs)
			}
		})
	}
	if r := Parse([]byte(`{"@message":"m","@timestamp":"2026-01-01T00:00:00.5Z"}`), now); r.Time.Equal(now) {
		t.Error("the line's own time is not used")
	}
}

func TestParseIsBounded(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	many.WriteString(`{"@message":"m"`)
	for i := range 200 {
		many.WriteString(`,"k` + strings.Repeat("k", i) + `":1`)
	}
	many.WriteString("}")
	for _, line := range []string{strings.Repeat("x", 1<<20), `{"@message":"` + strings.Repeat("y", 10_000) + `"}`, many.String(), strings.Repeat("{", 10_000)} {
		r := Parse([]byte(line), time.Now())
		size := len(r.Message)
		r.Attrs(func(a slog.Attr) bool { size += len(a.Key) + len(a.Value.String()); return true })
		if size > 100<<10 || r.NumAttrs() > maxAttrs+1 {
			t.Errorf("a record of %d bytes and %d attributes", size, r.NumAttrs())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"@message":1}`))
	f.Add([]byte(`{"@message":"m","@level":"warn","@timestamp":"2026-01-01T00:00:00Z","a":[{}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r := Parse(line, time.Now())
		if len(r.Message) > maxValue*4 {
			t.Errorf("a message of %d bytes", len(r.Message))
		}
	})
}
