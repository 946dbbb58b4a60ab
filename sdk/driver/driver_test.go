package driver

import (
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

func TestSpecValidate(t *testing.T) {
	t.Parallel()
	good := Spec{ID: "a.B_9-", Tags: Tags{Owner: "o", ID: "i"}}
	if err := good.Validate(); err != nil {
		t.Errorf("a good spec: %v", err)
	}
	for what, f := range map[string]func(*Spec){
		"no id":      func(s *Spec) { s.ID = "" },
		"dots":       func(s *Spec) { s.ID = ".." },
		"a slash":    func(s *Spec) { s.ID = "a/b" },
		"too long":   func(s *Spec) { s.ID = strings.Repeat("a", 129) },
		"no owner":   func(s *Spec) { s.Tags.Owner = "" },
		"no tag":     func(s *Spec) { s.Tags.ID = "" },
		"minus cpu":  func(s *Spec) { s.Resources.CPU = -1 },
		"minus pids": func(s *Spec) { s.Resources.Pids = -1 },
	} {
		s := good
		f(&s)
		if err := s.Validate(); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestExecSpecValidate(t *testing.T) {
	t.Parallel()
	good := ExecSpec{ID: "main", Argv: []string{"x", ""}, Env: []string{"A=", "B=c=d"}, Cwd: "/", Stdin: make([]byte, MaxStdin)}
	if err := good.Validate(); err != nil {
		t.Errorf("a good exec: %v", err)
	}
	for what, f := range map[string]func(*ExecSpec){
		"no id":          func(e *ExecSpec) { e.ID = "" },
		"no argv":        func(e *ExecSpec) { e.Argv = nil },
		"an empty name":  func(e *ExecSpec) { e.Argv = []string{""} },
		"a NUL":          func(e *ExecSpec) { e.Argv = []string{"x\x00"} },
		"no equals sign": func(e *ExecSpec) { e.Env = []string{"A"} },
		"no name":        func(e *ExecSpec) { e.Env = []string{"=a"} },
		"a NUL in env":   func(e *ExecSpec) { e.Env = []string{"A=\x00"} },
		"many arguments": func(e *ExecSpec) { e.Argv = make([]string, MaxArgs+1); e.Argv[0] = "x" },
		"large argument": func(e *ExecSpec) { e.Argv = []string{strings.Repeat("x", MaxArgBytes+1)} },
		"large stdin":    func(e *ExecSpec) { e.Stdin = make([]byte, MaxStdin+1) },
		"relative cwd":   func(e *ExecSpec) { e.Cwd = "a" },
		"minus timeout":  func(e *ExecSpec) { e.Timeout = -1 },
		"minus limit":    func(e *ExecSpec) { e.OutputLimit = -1 },
	} {
		e := good
		f(&e)
		if err := e.Validate(); !step.Is(err, step.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	d := After(time.Hour)
	if left := d.Left(); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("an hour from now is %v away", left)
	}
	if left := (Now() - 1).Left(); left >= 0 {
		t.Errorf("a moment ago is %v away", left)
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	cs := Capabilities{CapFiles}
	if !cs.Has(CapFiles) || cs.Has(CapTTY) {
		t.Errorf("%v: files %v, tty %v", cs, cs.Has(CapFiles), cs.Has(CapTTY))
	}
}
