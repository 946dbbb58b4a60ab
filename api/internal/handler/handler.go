// Package handler turns a step's tool and inputs into the command that runs.
//
// A handler is a manifest, one YAML file: the tool's name (or a prefix that
// ends in "*"), a JSON Schema of its inputs, defaults, how the inputs become
// argv, environment, stdin and files, and how its outputs are read. Adding a
// tool needs no Go code. An input that its schema marks x-sensitive is kept
// sealed, and nobody is shown it. Whatever the manifest says, a command's working
// folder and files stay in the workspace, and its environment is complete:
// nothing of a host's is added to it.
package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/nofx-run/nofx/api/internal/breaker"
	"github.com/nofx-run/nofx/api/internal/profile"
	"github.com/nofx-run/nofx/internal/strictyaml"
	"github.com/nofx-run/nofx/sdk/wire"
)

// How outputs are read.
const (
	ReadShell      = "shell"       // command, stdout, stderr, exitCode, success
	ReadStdoutJSON = "stdout-json" // stdout is one JSON value
)

// manifest is the YAML file.
type manifest struct {
	Tool        string            `yaml:"tool"`
	Description string            `yaml:"description"`
	Driver      string            `yaml:"driver"`
	Drivers     []string          `yaml:"drivers"` // in order, the driver first, when there are others to go to
	Breaker     breakerManifest   `yaml:"breaker"`
	Profile     string            `yaml:"profile"` // a named size, for what resources leave open
	Resources   profile.Resources `yaml:"resources"`
	TimeoutMS   int64             `yaml:"timeout_ms"`
	Retry       *retryManifest    `yaml:"retry"`
	Idempotent  bool              `yaml:"idempotent"` // may be run again after it touched the outside
	Inputs      map[string]any    `yaml:"inputs"`
	Command     commandManifest   `yaml:"command"`
	Shown       value             `yaml:"shown"`
	Outputs     string            `yaml:"outputs"`
}

type commandManifest struct {
	Argv  []value        `yaml:"argv"`
	Env   value          `yaml:"env"`
	Cwd   value          `yaml:"cwd"`
	Stdin value          `yaml:"stdin"`
	Files []fileManifest `yaml:"files"`
}

// Handler is what a tool's name resolves to.
type Handler struct {
	info      wire.HandlerInfo
	m         manifest
	schema    *jsonschema.Resolved
	sensitive []string // inputs whose values must not lie in clear
	rules     breaker.Rules
}

// Info is the handler as the API shows it.
func (h *Handler) Info() wire.HandlerInfo { return h.info }

// Reads says how its outputs are read: ReadShell or ReadStdoutJSON.
func (h *Handler) Reads() string { return h.m.Outputs }

// Set is all handlers that an API offers.
type Set struct {
	exact    map[string]*Handler
	prefixes []*Handler // the longest first
}

// Load reads every *.yaml in dir, with the sizes that they may name. One bad
// manifest makes it fail.
func Load(dir fs.FS, sizes profile.Set) (*Set, error) {
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no handler manifests (*.yaml)")
	}
	s := &Set{exact: map[string]*Handler{}}
	for _, name := range names {
		raw, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		h, err := parse(raw, sizes)
		if err != nil {
			return nil, fmt.Errorf("handler %s: %w", name, err)
		}
		tool := h.m.Tool
		if s.exact[tool] != nil || slices.ContainsFunc(s.prefixes, func(p *Handler) bool { return p.m.Tool == tool }) {
			return nil, fmt.Errorf("handler %s: there is another one for %q", name, tool)
		}
		if strings.HasSuffix(tool, "*") {
			s.prefixes = append(s.prefixes, h)
		} else {
			s.exact[tool] = h
		}
	}
	slices.SortFunc(s.prefixes, func(a, b *Handler) int { return len(b.m.Tool) - len(a.m.Tool) })
	return s, nil
}

func parse(raw []byte, sizes profile.Set) (*Handler, error) {
	h := &Handler{}
	if err := strictyaml.Unmarshal(raw, &h.m); err != nil {
		return nil, err
	}
	m := &h.m
	switch {
	case m.Tool == "" || len(m.Tool) > 100 || strings.ContainsAny(strings.TrimSuffix(m.Tool, "*"), "* \t\n"):
		return nil, fmt.Errorf("bad tool %q", m.Tool)
	case m.Driver == "" || m.Description == "":
		return nil, errors.New("driver and description are needed")
	case m.TimeoutMS <= 0:
		return nil, errors.New("timeout_ms is needed")
	case len(m.Command.Argv) == 0:
		return nil, errors.New("command.argv is needed")
	case m.Outputs != ReadShell && m.Outputs != ReadStdoutJSON:
		return nil, fmt.Errorf("outputs: %q is neither %s nor %s", m.Outputs, ReadShell, ReadStdoutJSON)
	}
	var err error
	if err = checkDrivers(m.Driver, m.Drivers); err != nil {
		return nil, err
	}
	if h.rules, err = m.Breaker.rules(); err != nil {
		return nil, err
	}
	size, known := sizes[m.Profile]
	if m.Profile != "" && !known {
		return nil, fmt.Errorf("profile %q is none of %s", m.Profile, sizes.Names())
	}
	caps := m.Resources.Step().Merge(size)
	if err := (profile.Resources{CPU: caps.CPU, MemoryMB: caps.MemoryMB, Pids: caps.Pids, DiskMB: caps.DiskMB, IOMBs: caps.IOMBs, OutputKB: caps.OutputKB}).Check(); err != nil {
		return nil, fmt.Errorf("resources: %w; or name a profile", err)
	}
	text, err := json.Marshal(m.Inputs)
	if err != nil {
		return nil, fmt.Errorf("inputs: %w", err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("inputs: %w", err)
	}
	if schema.Type != "object" {
		return nil, errors.New("inputs: the schema's type must be object")
	}
	if h.sensitive, err = marked(&schema); err != nil {
		return nil, err
	}
	if h.schema, err = schema.Resolve(nil); err != nil {
		return nil, fmt.Errorf("inputs: %w", err)
	}
	policy, err := m.Retry.policy()
	if err != nil {
		return nil, err
	}
	h.info = wire.HandlerInfo{
		Tool: m.Tool, Description: m.Description, DefaultDriver: m.Driver, Drivers: m.Drivers, Breaker: shownRules(h.rules), TimeoutMS: m.TimeoutMS, Inputs: text,
		Profile: m.Profile, Resources: caps, Retry: policy, Idempotent: m.Idempotent,
	}
	return h, nil
}

// Find resolves a tool's name: its own manifest, else the one with the
// longest prefix.
func (s *Set) Find(tool string) (*Handler, bool) {
	if h, ok := s.exact[tool]; ok {
		return h, true
	}
	for _, h := range s.prefixes {
		if prefix := strings.TrimSuffix(h.m.Tool, "*"); strings.HasPrefix(tool, prefix) && len(tool) > len(prefix) {
			return h, true
		}
	}
	return nil, false
}

// List is every handler, by tool.
func (s *Set) List() []wire.HandlerInfo {
	out := make([]wire.HandlerInfo, 0, len(s.exact)+len(s.prefixes))
	for _, h := range s.exact {
		out = append(out, h.info)
	}
	for _, h := range s.prefixes {
		out = append(out, h.info)
	}
	slices.SortFunc(out, func(a, b wire.HandlerInfo) int { return strings.Compare(a.Tool, b.Tool) })
	return out
}
