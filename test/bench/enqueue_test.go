package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/wire"
)

// BenchmarkEnqueue is how soon a step that is posted on an idle control plane is
// with a daemon, its answer to the post included, in turns with how soon a job
// that is inserted is with a worker of River's, on the same Postgres. Steps end
// before the next is posted.
func BenchmarkEnqueue(b *testing.B) {
	const warmup, rounds = 20, 200
	const rest = 50 * time.Millisecond
	p := newPlane(b)
	leased, ended := make(chan time.Time, 1), make(chan struct{}, 1)
	d := p.newDaemon(0)
	d.taken = func(_, got time.Time, _ []wire.Lease) { leased <- got }
	d.committed = func(wire.Lease, time.Time) { ended <- struct{}{} }
	ctx, cancel := context.WithCancel(b.Context())
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		d.run(ctx, b)
	}()
	defer func() {
		cancel()
		<-worked
	}()
	var lease, job Sample
	l, user := newLoad(p, 1), p.client("user")
	ours := func(ctx context.Context) error {
		begun := time.Now()
		if err := post(ctx, user, l); err != nil {
			return err
		}
		select {
		case got := <-leased:
			lease.Times = append(lease.Times, got.Sub(begun))
		case <-worked: // it has said why
			return errors.New("the daemon has ended")
		}
		select {
		case <-ended:
			return nil
		case <-worked:
			return errors.New("the daemon has ended")
		}
	}
	theirs := p.riverJobs()
	riverJob := Contender{Name: "river-job", Lacks: "HTTPS, tenants, a plan, events, audit"}
	if theirs != nil {
		riverJob.Run = func(context.Context) error {
			took, err := theirs()
			job.Times = append(job.Times, took)
			return err
		}
	}
	standing := Turns{Warmup: warmup, Rounds: rounds, Rest: rest, Ours: []func() time.Duration{p.server}}.Run(b, Contender{Name: "step", Run: ours}, riverJob)
	standing.Add("step-to-lease", Sample{Times: lease.Times[min(warmup, len(lease.Times)):]})
	if theirs != nil {
		standing.Add("river-job-to-worker", Sample{Times: job.Times[min(warmup, len(job.Times)):]})
	}
	standing.Report("step: POST /api/runs to the committed verdict of a daemon that runs nothing, of which step-to-lease is the part until it has the lease")
	standing.Ratio("step-to-lease", "river-job-to-worker")
}

func post(ctx context.Context, user *client.Client, l *load) error {
	_, err := user.Submit(ctx, l.plan(l.next.Add(1)), "")
	return err
}

// riverJobs gives what has River do one job, and tells how long it took to be
// with a worker; nil where River is not there. Its database is its own, its
// program ends with the benchmark.
func (p *plane) riverJobs() func() (time.Duration, error) {
	b := p.b
	b.Helper()
	program := filepath.Join(p.bin, "river-enqueue")
	if _, err := os.Stat(program); err != nil {
		return nil
	}
	cmd := exec.CommandContext(context.Background(), program, p.riverDatabase())
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, done, err := begin(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := <-done; err != nil {
			b.Errorf("river-enqueue: %v", err)
		}
	})
	answers := bufio.NewReader(out)
	return func() (time.Duration, error) {
		if _, err := fmt.Fprintln(in); err != nil {
			return 0, err
		}
		text, err := answers.ReadString('\n')
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		return time.Duration(ns), err
	}
}
