package suite

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func createCases() []testCase {
	return []testCase{
		{"CreateIsIdempotent", func(t T, fx *fixture) {
			spec := fx.spec(t)
			h, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			t.Cleanup(func() { fx.destroy(t, h) })
			if h.Driver != fx.desc.Name || h.ID != spec.ID || len(h.Data) > driver.MaxHandle {
				t.Errorf("handle %+v: driver %q and id %q are wanted", h, fx.desc.Name, spec.ID)
			}
			again, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create again: %v", err)
			}
			if diff := cmp.Diff(h, again); diff != "" {
				t.Errorf("create again gives another handle:\n%s", diff)
			}
			if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 1 {
				t.Errorf("there are %d sandboxes (%v), want 1", len(all), err)
			}
			other := spec
			other.Tags.ID = "another"
			_, err = fx.d.Create(fx.ctx(t), other)
			wantKind(t, "create with another spec", err, step.KindConflict)
		}},
		{"CreateAtOnce", func(t T, fx *fixture) {
			spec := fx.spec(t)
			handles := make([]driver.Handle, 4)
			errs := make([]error, len(handles))
			var wg sync.WaitGroup
			for i := range handles {
				wg.Go(func() { handles[i], errs[i] = fx.d.Create(fx.ctx(t), spec) })
			}
			wg.Wait()
			for i := range handles {
				if errs[i] != nil || !cmp.Equal(handles[i], handles[0]) {
					t.Errorf("create %d of the same spec: %+v, %v", i, handles[i], errs[i])
				}
			}
			fx.destroy(t, handles[0])
			if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 0 {
				t.Errorf("after one destroy there are %d sandboxes (%v)", len(all), err)
			}
		}},
		{"CreateRefusesInvalid", func(t T, fx *fixture) {
			for _, id := range []string{"", ".", "..", ".hidden", "../x", "a/b", "a b", "a\x00b", "ä", strings.Repeat("a", 129)} {
				_, err := fx.d.Create(fx.ctx(t), fx.spec(t, func(s *driver.Spec) { s.ID = id }))
				wantKind(t, fmt.Sprintf("create with id %q", id), err, step.KindInvalid)
			}
			_, err := fx.d.Create(fx.ctx(t), fx.spec(t, func(s *driver.Spec) { s.Tags.Owner = "" }))
			wantKind(t, "create without an owner", err, step.KindInvalid)
			_, err = fx.d.Create(fx.ctx(t), fx.spec(t, func(s *driver.Spec) { s.Tags.ID = "" }))
			wantKind(t, "create without a tag", err, step.KindInvalid)
			h := fx.create(t, func(s *driver.Spec) { s.ID = "A.z_9-" + strings.Repeat("x", 122) })
			if r := fx.run(t, h, fx.exec(fx.Programs.Exit(0))); r.exit.Code != 0 {
				t.Errorf("a sandbox with an id of 128 characters: %+v", r.exit)
			}
		}},
		{"CreateAfterDestroy", func(t T, fx *fixture) {
			spec := fx.spec(t)
			old, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			fx.run(t, old, fx.exec(fx.Programs.Print("old", ""), func(e *driver.ExecSpec) { e.ID = "main" }))
			fx.destroy(t, old)
			h, err := fx.d.Create(fx.ctx(t), spec)
			if err != nil {
				t.Fatalf("create under the id of a destroyed one: %v", err)
			}
			t.Cleanup(func() { fx.destroy(t, h) })
			r := fx.run(t, h, fx.exec(fx.Programs.Print("new", ""), func(e *driver.ExecSpec) { e.ID = "main" }))
			if string(r.stdout) != "new" {
				t.Errorf("the new sandbox shows %q of the old one", r.stdout)
			}
		}},
		{"TwentyAtOnce", func(t T, fx *fixture) {
			specs := make([]driver.Spec, 20)
			for i := range specs {
				specs[i] = fx.spec(t)
			}
			var wg sync.WaitGroup
			for i, spec := range specs {
				wg.Go(func() {
					h, err := fx.d.Create(fx.ctx(t), spec)
					if err != nil {
						t.Errorf("create %d: %v", i, err)
						return
					}
					defer fx.destroy(t, h)
					c := newCollector(0)
					text := fmt.Sprintf("sandbox %d", i)
					if err := fx.d.Exec(fx.ctx(t), h, fx.exec(fx.Programs.Print(text, "")), c.sink); err != nil {
						t.Errorf("exec in %d: %v", i, err)
						return
					}
					c.mu.Lock()
					defer c.mu.Unlock()
					if string(c.r.stdout) != text || c.r.exit == nil || c.r.exit.Cause != step.CauseExit || c.r.exit.Code != 0 {
						t.Errorf("exec in %d: said %q, exit %+v", i, c.r.stdout, c.r.exit)
					}
				})
			}
			wg.Wait()
			if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 0 {
				t.Errorf("%d sandboxes are left (%v)", len(all), err)
			}
		}},
		{"ListShowsItsOwn", func(t T, fx *fixture) {
			began := time.Now()
			h := fx.create(t)
			foreign := fx.create(t, func(s *driver.Spec) { s.Tags.Owner = fx.owner + "-other" })
			all, err := fx.d.List(fx.ctx(t), fx.owner)
			if err != nil || len(all) != 1 {
				t.Fatalf("list: %d sandboxes, %v; want 1", len(all), err)
			}
			got := all[0]
			if !cmp.Equal(got.Handle, h) || got.Tags != (driver.Tags{Owner: fx.owner, ID: "tag-" + h.ID}) || got.Phase != driver.PhaseCreated || got.CreatedAt.IsZero() {
				t.Errorf("list: %+v, want the sandbox %+v as it was created", got, h)
			}
			// The daemon's sweep spares what is younger than 30 s.
			if got.CreatedAt.Before(began.Add(-30*time.Second)) || got.CreatedAt.After(time.Now().Add(30*time.Second)) {
				t.Errorf("list: it was created at %v, and it is %v", got.CreatedAt, time.Now())
			}
			fx.run(t, h, fx.exec(fx.Programs.Exit(0)))
			if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 1 || all[0].Phase != driver.PhaseExited {
				t.Errorf("list after the exec: %+v, %v; want phase exited", all, err)
			}
			fx.destroy(t, h)
			if all, err := fx.d.List(fx.ctx(t), fx.owner); err != nil || len(all) != 0 {
				t.Errorf("list after destroy: %+v, %v", all, err)
			}
			if all, err := fx.d.List(fx.ctx(t), fx.owner+"-other"); err != nil || len(all) != 1 || all[0].Handle.ID != foreign.ID {
				t.Errorf("list of the other owner: %+v, %v", all, err)
			}
		}},
	}
}
