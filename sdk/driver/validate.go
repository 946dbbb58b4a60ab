package driver

import (
	"path"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds that Validate checks.
const (
	MaxArgs     = 4096
	MaxArgBytes = 1 << 20 // of argv and env together
	MaxStdin    = 1 << 20
)

// Validate checks what every driver would have to check.
func (s Spec) Validate() error {
	if !validID(s.ID, 128) {
		return step.Errorf(step.KindInvalid, "sandbox id %.140q: 1 to 128 of [A-Za-z0-9._-], not starting with a dot", s.ID)
	}
	if s.Tags.Owner == "" || s.Tags.ID == "" {
		return step.Errorf(step.KindInvalid, "sandbox %s: both tags are needed", s.ID)
	}
	r := s.Resources
	if r.CPU < 0 || r.MemoryMB < 0 || r.Pids < 0 || r.DiskMB < 0 || r.IOMBs < 0 || r.OutputKB < 0 {
		return step.Errorf(step.KindInvalid, "sandbox %s: a resource is negative", s.ID)
	}
	return s.validateEgress()
}

// MaxRules bounds a sandbox's rules about the network, of either kind.
const MaxRules = 256

func (s Spec) validateEgress() error {
	e := s.Egress
	switch {
	case len(e.Allow) > MaxRules || len(e.Private) > MaxRules:
		return step.Errorf(step.KindInvalid, "sandbox %s: more than %d rules about the network", s.ID, MaxRules)
	case s.Network == step.NetworkAllow && len(e.Allow) == 0:
		return step.Errorf(step.KindInvalid, "sandbox %s: network allow needs a list of whom it may call", s.ID)
	case s.Network != step.NetworkAllow && len(e.Allow) > 0:
		return step.Errorf(step.KindInvalid, "sandbox %s: a list of whom it may call goes with network allow only", s.ID)
	}
	for _, text := range slices.Concat(e.Allow, e.Private) {
		if _, err := step.ParseRule(text); err != nil {
			return step.Errorf(step.KindInvalid, "sandbox %s: network: %w", s.ID, err)
		}
	}
	return nil
}

// Validate checks what every driver would have to check.
func (e ExecSpec) Validate() error {
	if !validID(e.ID, 64) {
		return step.Errorf(step.KindInvalid, "exec id %.80q: 1 to 64 of [A-Za-z0-9._-], not starting with a dot", e.ID)
	}
	if len(e.Argv) == 0 || e.Argv[0] == "" {
		return step.Errorf(step.KindInvalid, "exec %s: argv is empty", e.ID)
	}
	if len(e.Argv)+len(e.Env) > MaxArgs {
		return step.Errorf(step.KindInvalid, "exec %s: more than %d arguments and variables", e.ID, MaxArgs)
	}
	n := 0
	for _, s := range e.Argv {
		n += len(s) + 1
		if strings.IndexByte(s, 0) >= 0 {
			return step.Errorf(step.KindInvalid, "exec %s: an argument has a NUL byte", e.ID)
		}
	}
	for _, s := range e.Env {
		n += len(s) + 1
		if i := strings.IndexByte(s, '='); i <= 0 || strings.IndexByte(s, 0) >= 0 {
			return step.Errorf(step.KindInvalid, "exec %s: a variable is not NAME=VALUE", e.ID)
		}
	}
	if n > MaxArgBytes {
		return step.Errorf(step.KindInvalid, "exec %s: arguments and variables have %d bytes, more than %d", e.ID, n, MaxArgBytes)
	}
	if len(e.Stdin) > MaxStdin {
		return step.Errorf(step.KindInvalid, "exec %s: stdin has %d bytes, more than %d", e.ID, len(e.Stdin), MaxStdin)
	}
	if e.Cwd != "" && (!path.IsAbs(e.Cwd) || strings.IndexByte(e.Cwd, 0) >= 0) {
		return step.Errorf(step.KindInvalid, "exec %s: cwd is not an absolute path", e.ID)
	}
	if e.Timeout < 0 || e.Grace < 0 || e.OutputLimit < 0 {
		return step.Errorf(step.KindInvalid, "exec %s: a limit is negative", e.ID)
	}
	return nil
}

func validID(s string, limit int) bool {
	if s == "" || len(s) > limit || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}
