package profile_test

import (
	"strings"
	"testing"

	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/configs"
)

func TestShipped(t *testing.T) {
	t.Parallel()
	data, err := configs.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	s, err := profile.Parse(data)
	if err != nil || s.Names() != "heavy, large, medium, small" {
		t.Fatal(s, err)
	}
	if s["small"].MemoryMB >= s["medium"].MemoryMB || s["medium"].MemoryMB >= s["large"].MemoryMB || s["large"].MemoryMB >= s["heavy"].MemoryMB {
		t.Errorf("%+v", s)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Big: {cpu: 1, memory_mb: 1, pids: 1, output_kb: 1}":            "lower-case",
		"a: {cpu: 1, memory_mb: 1, pids: 1}":                            "output_kb",
		"a: {cpu: -1, memory_mb: 1, pids: 1, output_kb: 1}":             "more than 0",
		"a: {cpu: 1, memory_mb: 1, pids: 1, output_kb: 1, disk_mb: -5}": "negative",
		"a: {cpu: 1, memory: 1, pids: 1, output_kb: 1}":                 "memory",
		"a: 5": "cannot unmarshal",
	} {
		if s, err := profile.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}
