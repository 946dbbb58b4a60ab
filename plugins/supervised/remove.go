package supervised

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/sdk/step"
)

// goneMark begins the names of folders that are being removed. No sandbox id
// begins with a dot.
const goneMark = ".gone-"

// removeRemains goes on with removals that an earlier process did not finish.
func removeRemains(stateDir string) error {
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return step.Errorf(step.KindInternal, "state_dir: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneMark) {
			if err := rmtree.TryRemove(filepath.Join(stateDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
