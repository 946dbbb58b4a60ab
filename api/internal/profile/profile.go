// Package profile knows the named sizes of steps.
package profile

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/internal/strictyaml"
	"github.com/nofx-run/nofx/sdk/step"
)

// Set is resources by name.
type Set map[string]step.Resources

// Resources are caps as a YAML file has them; units as in step.Resources.
type Resources struct {
	CPU      float64 `yaml:"cpu"`
	MemoryMB int64   `yaml:"memory_mb"`
	Pids     int64   `yaml:"pids"`
	DiskMB   int64   `yaml:"disk_mb"`
	IOMBs    int64   `yaml:"io_mb_s"`
	OutputKB int64   `yaml:"output_kb"`
}

// Check refuses caps that are none.
func (r Resources) Check() error {
	if r.CPU <= 0 || r.MemoryMB <= 0 || r.Pids <= 0 || r.OutputKB <= 0 {
		return errors.New("cpu, memory_mb, pids and output_kb are needed, and more than 0")
	}
	if r.DiskMB < 0 || r.IOMBs < 0 {
		return errors.New("disk_mb and io_mb_s may not be negative")
	}
	return nil
}

// Step gives the same to the rest of the system.
func (r Resources) Step() step.Resources {
	return step.Resources{CPU: r.CPU, MemoryMB: r.MemoryMB, Pids: r.Pids, DiskMB: r.DiskMB, IOMBs: r.IOMBs, OutputKB: r.OutputKB}
}

var name = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Parse reads a YAML file of resources by name, strictly.
func Parse(data []byte) (Set, error) {
	var raw map[string]Resources
	if err := strictyaml.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	out := Set{}
	for n, r := range raw {
		if !name.MatchString(n) {
			return nil, fmt.Errorf("profile %.80q: a name is lower-case letters, digits and hyphens", n)
		}
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("profile %s: %w", n, err)
		}
		out[n] = r.Step()
	}
	return out, nil
}

// Names lists the names, for people.
func (s Set) Names() string { return strings.Join(slices.Sorted(maps.Keys(s)), ", ") }
