package container

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/nofx-run/nofx/sdk/step"
)

// enginesFile is where a state folder remembers the engines that may have containers
// of it. No sandbox's id begins with a dot.
const enginesFile = ".engines.json"

// engines is that account. An engine is in it from before its first container until,
// being the configuration's no more, it has none.
type engines struct {
	mu    sync.Mutex
	away  map[maker]bool // those that the log knows to be away
	noted map[string]maker
}

// note adds the engine of the configuration, before it makes a container.
func (n *engines) note(dir string, m maker) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noted[dir] == m {
		return nil
	}
	all, err := readEngines(dir)
	if err != nil {
		return err
	}
	if !slices.Contains(all, m) {
		if err := writeEngines(dir, append(all, m)); err != nil {
			return err
		}
	}
	if n.noted == nil {
		n.noted = map[string]maker{}
	}
	n.noted[dir] = m
	return nil
}

// forget takes one out that has nothing left.
func (n *engines) forget(dir string, m maker) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noted[dir] == m {
		delete(n.noted, dir)
	}
	all, err := readEngines(dir)
	if err != nil {
		return err
	}
	return writeEngines(dir, slices.DeleteFunc(all, func(have maker) bool { return have == m }))
}

// news reports whether it is new that an engine is away, or is not.
func (n *engines) news(m maker, away bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away[m] == away {
		return false
	}
	if n.away == nil {
		n.away = map[maker]bool{}
	}
	n.away[m] = away
	return true
}

func readEngines(dir string) ([]maker, error) {
	data, err := os.ReadFile(filepath.Join(dir, enginesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, step.Errorf(step.KindUnavailable, "%s: %w", enginesFile, err)
	}
	var all []maker
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, step.Errorf(step.KindInternal, "%s: %w", enginesFile, err)
	}
	return all, nil
}

func writeEngines(dir string, all []maker) error {
	data, err := json.Marshal(all)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, enginesFile), data, 0o600)
	}
	if err != nil {
		return step.Errorf(step.KindUnavailable, "%s: %w", enginesFile, err)
	}
	return nil
}

// sweepOthers sweeps the engines that the configuration named before. One that is
// away is tried with each sweep, and told of once.
func (d *Driver) sweepOthers(ctx context.Context, s *setup, before time.Time) error {
	all, err := readEngines(s.config.StateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range all {
		if m.of(s) {
			continue
		}
		left, err := d.sweepOther(ctx, s, m, before)
		if err == nil && left == 0 {
			err = d.engines.forget(s.config.StateDir, m)
		}
		away := step.Is(err, step.KindUnavailable)
		if d.engines.news(m, away) && away {
			d.log.Warn("an engine that has made containers cannot be asked what is left of them", "host", m.Host, "err", err)
		}
		if !away {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweepOther gives how many containers of this state folder an engine has left. When
// another has taken its address nobody can be asked.
func (d *Driver) sweepOther(ctx context.Context, s *setup, m maker, before time.Time) (left int, err error) {
	e, err := openEngine(m.Host)
	if err != nil {
		return 0, err
	}
	defer e.close()
	i, err := e.info(ctx)
	if err != nil {
		return 0, err
	}
	if m.ID != "" && i.id != "" && m.ID != i.id {
		d.log.Error("an engine that has made containers is not at its address any more; it is not looked for", "host", m.Host, "engine", m.ID, "there_now", i.id)
		return 0, nil
	}
	return d.sweepAt(ctx, s, e, before)
}
