package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nofx-run/nofx/test/invariant"
)

// Workspaces is the folder of the workspaces of runs, for a recorder.
func (s *System) Workspaces() string { return filepath.Join(s.Dir, "worker", "work") }

// OwnerURL is how the owner reaches the database.
func (s *System) OwnerURL() (string, error) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Pid("nofx-api")))
	if err != nil {
		return "", err
	}
	for v := range strings.SplitSeq(string(env), "\x00") {
		if url, ok := strings.CutPrefix(v, "NOFX_ADMIN_DATABASE_URL="); ok {
			return url, nil
		}
	}
	return "", errors.New("nofx-api has no NOFX_ADMIN_DATABASE_URL")
}

// Tables are the rows that invariants are about, as they are now.
func (s *System) Tables() invariant.Tables {
	s.t.Helper()
	url, err := s.OwnerURL()
	if err != nil {
		s.t.Fatal(err)
	}
	tables, err := invariant.Dump(s.context(), url)
	if err != nil {
		s.t.Fatal(err)
	}
	return tables
}

// Seen are the run's events as one reader that asks for all of them gets them.
func (s *System) Seen(reader, runID string) []invariant.Seen {
	s.t.Helper()
	events := s.Timeline(runID)
	seen := make([]invariant.Seen, len(events))
	for i, e := range events {
		seen[i] = invariant.Seen{Reader: reader, RunID: runID, Seq: e.Seq, ID: e.ID, Type: e.Type, StepID: e.StepID, Attempt: e.Attempt}
	}
	return seen
}
