package pg_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unfenced are the writes to steps and attempts that are no worker's, or that
// have no lease to compare yet; each with its reason.
var unfenced = map[string]string{
	"Claim":           "makes the lease: compares the old state of the step",
	"PinQueued":       "queued steps have no lease",
	"InsertSteps":     "makes the steps",
	"CancelOpenSteps": "steps that have no lease",
	"CancelAttempts":  "a user's wish: asks, and ends nothing",
	"CountDown":       "dependants, which have no lease; the step that ended is fenced by EndSteps in the same transaction",
	"CancelBelow":     "the same",
	"CoverSteps":      "steps that have succeeded, which have no lease; the one with the layer is fenced by EndSteps in the same transaction",
	"ForgetUnlisted":  "shortens the leases of the worker that asks",
	"GoBack":          "the reaper's: the clock has gone back, and what is to come with it; ends nothing",
	"LoseAttempts":    "the reaper's: compares the epoch and the lease's end",
	"UnpinQueued":     "queued steps have no lease",
	"EnqueueRoots":    "steps of a run that was held, which have no lease",
	"Unpark":          "queued steps have no lease",
	"MoveRegions":     "queued steps have no lease",
	"MoveWorkspaces":  "neither have waiting ones",
	"FailQueued":      "queued steps have no lease",
	"ReopenSteps":     "a user's wish: compares the generation, and that the step has ended",
	"EditStep":        "the same",
	"SealStep":        "an operator's: changes how the step's inputs are kept, and compares them",
	"ResealStep":      "the same",
	"DropAttempts":    "retention's: of runs that have ended and are gone for their tenant",
	"DropSteps":       "the same",
	"MoveQueued":      "the same; compares the step's place among its drivers",
}

var (
	queryName = regexp.MustCompile(`(?m)^-- name: (\w+) :\w+$`)
	writes    = regexp.MustCompile(`(?i)\b(UPDATE|INSERT INTO|DELETE FROM)\s+nofx\.(step|attempt)\b`)
	alias     = map[string][]string{
		"attempt": {"generation", "number", "epoch", "worker_id", "incarnation", "key_id"},
		"step":    {"generation", "attempt", "epoch"},
	}
)

// Every write of a worker compares its whole fence in the statement that makes
// the change.
func TestWorkerWritesAreFenced(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("queries/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal("no queries", err)
	}
	fenced, used := 0, map[string]bool{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		names := queryName.FindAllStringSubmatchIndex(text, -1)
		begin := 0
		for i, at := range names {
			name := text[at[2]:at[3]]
			end := len(text)
			if i+1 < len(names) {
				end = names[i+1][0]
			}
			comment, body := text[begin:at[0]], text[at[1]:end]
			begin = at[1] + strings.LastIndex(body, ";") + 1
			body = body[:strings.LastIndex(body, ";")+1]
			_, mark, marked := strings.Cut(comment, "-- fence: ")
			if !marked {
				if writes.MatchString(body) && unfenced[name] == "" {
					t.Errorf("%s: %s writes steps or attempts without a fence", file, name)
				}
				used[name] = true
				continue
			}
			fenced++
			kind := strings.Fields(mark)[0]
			parts, ok := alias[kind]
			if !ok {
				t.Errorf("%s: %s has the unknown fence %q", file, name, kind)
			}
			for _, part := range parts {
				compared := regexp.MustCompile(`\b[aslw]\.` + part + `( \|\| '')? = (f\.` + part + `|@` + part + `\b)`)
				if !compared.MatchString(body) {
					t.Errorf("%s: %s does not compare %s", file, name, part)
				}
			}
			if kind == "step" && !regexp.MustCompile(`s\.status( \|\| '')? = 'running'`).MatchString(body) {
				t.Errorf("%s: %s does not compare the old state", file, name)
			}
		}
	}
	if fenced < 8 {
		t.Errorf("only %d fenced statements found", fenced)
	}
	for name := range unfenced {
		if !used[name] {
			t.Errorf("the exception %s is not a query any more", name)
		}
	}
}
