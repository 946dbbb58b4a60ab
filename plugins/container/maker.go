package container

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nofx-run/nofx/sdk/step"
)

// makerFile is where a sandbox's folder says which engine made its container: by
// the time that it goes, the configuration may name another one.
const makerFile = "engine.json"

// maker is an engine, as a sandbox remembers it.
type maker struct {
	Host    string `json:"host"`
	ID      string `json:"id"` // what it is known by, at each of its addresses
	Systemd bool   `json:"systemd"`
}

// write writes it down before there is a container.
func (m maker) write(dir string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return step.Errorf(step.KindInternal, "%s: %w", makerFile, err)
	}
	if err := os.WriteFile(filepath.Join(dir, makerFile), data, 0o600); err != nil {
		return step.Errorf(step.KindUnavailable, "%s: %w", makerFile, err)
	}
	return nil
}

// makerOf is nil for a sandbox of a version that did not write it down, for one
// that has no container yet, and for one whose folder is gone.
func makerOf(dir string) (*maker, error) {
	data, err := os.ReadFile(filepath.Join(dir, makerFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, step.Errorf(step.KindUnavailable, "%s: %w", makerFile, err)
	}
	if !json.Valid(data) { // not there, or cut off
		return nil, nil
	}
	m := &maker{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, step.Errorf(step.KindInternal, "%s: %w", makerFile, err)
	}
	return m, nil
}

// of reports whether an engine is the one of the configuration.
func (m *maker) of(s *setup) bool {
	return m == nil || m.Host == s.config.Host || m.ID != "" && m.ID == s.id()
}

// madeBy calls use with the engine that made the container of a sandbox, and which
// one it says that it is now.
func madeBy(ctx context.Context, s *setup, by *maker, use func(e *engine, now string) error) error {
	if by.of(s) {
		return use(s.engine, s.id())
	}
	e, err := openEngine(by.Host)
	if err != nil {
		return err
	}
	defer e.close()
	i, err := e.info(ctx)
	if err != nil {
		return err
	}
	return use(e, i.id)
}

// removeMade removes the container of a sandbox from the engine that made it, and
// reports whether there was one. While that engine cannot be asked it is an error,
// which says what is left and where. When another engine has taken its address,
// nobody can be asked, and the log says it: nothing runs in the container any more.
func (d *Driver) removeMade(ctx context.Context, s *setup, by *maker, id string) (gone bool, err error) {
	err = madeBy(ctx, s, by, func(e *engine, now string) (err error) {
		gone, err = e.remove(ctx, name(id))
		if err == nil && !gone && by != nil && by.ID != "" && now != "" && by.ID != now {
			d.log.Error("a container may be left with an engine that is not at its address any more", "container", name(id), "host", by.Host, "engine", by.ID, "there_now", now)
		}
		return err
	})
	if err != nil && !by.of(s) {
		err = step.Errorf(step.KindOf(err), "the container %s is with the engine at %s, which made it and is not the configuration's any more; to remove it there: docker -H %s rm -f %s: %w",
			name(id), by.Host, by.Host, name(id), err)
	}
	return gone, err
}
