package queue

import (
	"testing"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
)

func waiting(tenant string, steps int) *post {
	return newPost(auth.Principal{TenantID: tenant}, Submission{Steps: make([]plan.Step, steps)}, nil)
}

// turn is what a submission was told: nil and false = nothing yet.
func turn(p *post) (batch []*post, told bool) {
	select {
	case batch = <-p.turn:
		return batch, true
	default:
		return nil, false
	}
}

// What comes while as many transactions run as may is stored together by the
// next; another tenant's does not wait, and nothing is left in the end.
func TestSubmissionsAreStoredTogether(t *testing.T) {
	t.Parallel()
	var p posts
	var first, late []*post
	for range mostStoring {
		first = append(first, waiting("acme", 1))
	}
	for range 3 {
		late = append(late, waiting("acme", 1))
	}
	for _, x := range first {
		p.join(x)
		if batch, _ := turn(x); len(batch) != 1 || batch[0] != x {
			t.Fatalf("one that comes first has the turn with %d", len(batch))
		}
	}
	for _, x := range late {
		p.join(x)
		if _, told := turn(x); told {
			t.Fatal("one that comes late does not wait")
		}
	}
	other := waiting("beta", 1)
	p.join(other)
	alone, _ := turn(other)
	if len(alone) != 1 {
		t.Fatalf("another tenant's has the turn with %d", len(alone))
	}
	p.done("acme", first[:1])
	batch, _ := turn(late[0])
	if len(batch) != len(late) {
		t.Fatalf("%d are stored together, want %d", len(batch), len(late))
	}
	p.done("acme", batch)
	for _, x := range late[1:] {
		if batch, told := turn(x); !told || batch != nil {
			t.Error("one that was stored is not told")
		}
	}
	p.done("acme", first[1:])
	p.done("beta", alone)
	if len(p.lines) > 0 {
		t.Errorf("%d lines are left", len(p.lines))
	}
}

// A transaction has a bounded number of steps, unless one run has more.
func TestStoresAreBounded(t *testing.T) {
	t.Parallel()
	var p posts
	for range mostStoring {
		p.join(waiting("acme", 1))
	}
	all := []*post{waiting("acme", 2*mostSteps), waiting("acme", mostSteps-1), waiting("acme", 1), waiting("acme", 1)}
	for _, x := range all {
		p.join(x)
	}
	p.done("acme", []*post{waiting("acme", 1)})
	if batch, _ := turn(all[0]); len(batch) != 1 {
		t.Errorf("a large run is stored with %d others", len(batch)-1)
	}
	p.done("acme", all[:1])
	if batch, _ := turn(all[1]); len(batch) != 2 {
		t.Errorf("%d are stored together, want 2", len(batch))
	}
}

// full is a line in which as many transactions run as may; it gives the
// submissions that have the turn.
func full(p *posts) (storing [][]*post) {
	for range mostStoring {
		x := waiting("acme", 1)
		p.join(x)
		batch, _ := turn(x)
		storing = append(storing, batch)
	}
	return storing
}

// One whose client has hung up is not stored; the one behind it is.
func TestGoneSubmissionsAreNotStored(t *testing.T) {
	t.Parallel()
	var p posts
	storing := full(&p)
	left := make(chan struct{})
	gone, here := newPost(auth.Principal{TenantID: "acme"}, Submission{}, left), waiting("acme", 1)
	p.join(gone)
	p.join(here)
	close(left)
	p.done("acme", storing[0])
	if batch, told := turn(gone); !told || batch != nil || !step.Is(gone.err, step.KindUnavailable) {
		t.Errorf("the one that is gone: %v, %v", batch, gone.err)
	}
	if batch, _ := turn(here); len(batch) != 1 || batch[0] != here {
		t.Errorf("the one that is here has the turn with %d", len(batch))
	}
}

// While the database is away nobody waits for a turn to find that out.
func TestWaitingSubmissionsHearOfAnOutage(t *testing.T) {
	t.Parallel()
	var p posts
	storing := full(&p)
	x := waiting("acme", 1)
	p.join(x)
	storing[0][0].err = step.Errorf(step.KindUnavailable, "away")
	p.done("acme", storing[0])
	if batch, told := turn(x); !told || batch != nil || !step.Is(x.err, step.KindUnavailable) {
		t.Errorf("it was told %v, %v", batch, x.err)
	}
	p.done("acme", storing[1])
	if len(p.lines) > 0 {
		t.Errorf("%d lines are left", len(p.lines))
	}
}
