package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/sdk/wire"
)

// A purge is what ends an installation, so it does without what may have gone
// before: the key and, if it is told so, the ledger.
func TestPurge(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ledger string // what it is overwritten with; "" = it is whole, "none" = it is gone
		args   []string
		fails  string
	}{
		"no key":                   {},
		"a ledger that is broken":  {ledger: "no ledger", fails: "--without-ledger"},
		"and the operator says so": {ledger: "no ledger", args: []string{"--without-ledger"}},
		"no ledger":                {ledger: "none"},
		"a needless word about it": {args: []string{"--without-ledger"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "purge", 1_700_000_000)
			r.name += "-" + strings.ReplaceAll(name, " ", "-")
			r.configure("{}")
			kept := []string{r.path("data", "work", "run_1", "file"), r.path("data", "journal", "att_1", "segment")}
			path := r.path("data", "ledger.db")
			err := errors.Join(os.Remove(r.path("token")), os.MkdirAll(r.path("data", "work", "run_1"), 0o700), os.MkdirAll(r.path("data", "journal", "att_1"), 0o700))
			for _, file := range kept {
				err = errors.Join(err, os.WriteFile(file, []byte("x"), 0o600))
			}
			l, openErr := ledger.Open(path)
			if err := errors.Join(err, openErr); err != nil {
				t.Fatal(err)
			}
			err = errors.Join(l.Put(ledger.Entry{Lease: wire.Lease{Fence: wire.Fence{AttemptID: "att_1"}, RunID: "run_1"}}), l.PutRun(ledger.Run{ID: "run_1"}), l.Close())
			switch tc.ledger {
			case "":
			case "none":
				err = errors.Join(err, os.Remove(path))
			default:
				err = errors.Join(err, os.WriteFile(path, []byte(strings.Repeat(tc.ledger, 10_000)), 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err := r.command(append([]string{"purge"}, tc.args...)...).CombinedOutput()
			if tc.fails != "" {
				if err == nil || !strings.Contains(string(out), tc.fails) {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			for _, file := range kept {
				if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s stays: %v", file, err)
				}
			}
			if l, err := ledger.Open(path); err != nil {
				t.Errorf("the next daemon: %v", err)
			} else {
				runs, err1 := l.Runs()
				entries, err2 := l.Entries()
				if err := errors.Join(err1, err2, l.Close()); err != nil || len(runs)+len(entries) > 0 {
					t.Errorf("%v %v, %v", runs, entries, err)
				}
			}
		})
	}
}
