package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// At waits until the process is held at a place of package failpoint, which is
// PLACE or PLACE@STEP, and calls do then: it is to end the process. What came by
// is let go afterwards, also when nobody did before ctx ended.
func (p *Process) At(ctx context.Context, place string, do func() error) (err error) {
	if err := os.MkdirAll(p.points, 0o700); err != nil {
		return err
	}
	name, _, _ := strings.Cut(place, "@")
	armed, held := filepath.Join(p.points, place), filepath.Join(p.points, name+".held")
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		return err
	}
	defer func() {
		for _, path := range []string{armed, held} {
			if e := os.Remove(path); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	if err := poll(ctx, "nobody came by "+place, func() error {
		_, err := os.Lstat(held)
		return err
	}); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return do()
}
