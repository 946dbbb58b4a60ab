package handler

import (
	"fmt"

	"github.com/nofx-run/nofx/api/internal/retry"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// retryManifest is wire.Retry in YAML.
type retryManifest struct {
	Attempts       int          `yaml:"attempts"`
	BackoffMS      int64        `yaml:"backoff_ms"`
	MaxBackoffMS   int64        `yaml:"max_backoff_ms"`
	On             []step.Cause `yaml:"on"`
	ExitCodes      []int        `yaml:"exit_codes"`
	NeverOn        []step.Cause `yaml:"never_on"`
	NeverExitCodes []int        `yaml:"never_exit_codes"`
}

// policy is the manifest's, nil when it has none.
func (m *retryManifest) policy() (*wire.Retry, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // no policy is no fault
	}
	p := wire.Retry(*m)
	for _, f := range retry.Check(p) {
		return nil, fmt.Errorf("retry.%s: %s", f.Location, f.Message)
	}
	return &p, nil
}
