package chaos

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/test/fleet"
)

// injector puts faults into a fleet.
type injector struct {
	fleet *fleet.Fleet
	rec   *record

	mu   sync.Mutex
	done map[string]int // by kind
}

// run puts in the faults of a schedule until all are over, or ctx ends: then it
// mends those that are in at once.
func (j *injector) run(ctx context.Context, faults []Fault) {
	begin := time.Now()
	var all sync.WaitGroup
	defer all.Wait()
	for _, f := range faults {
		if !pause(ctx, f.At-time.Since(begin)) {
			return
		}
		all.Go(func() {
			j.rec.note("fault: %s", f)
			j.mu.Lock()
			j.done[f.Kind]++
			j.mu.Unlock()
			if err := j.inject(ctx, f); err != nil {
				j.rec.note("fault: %s: %v", f, err)
			}
			j.rec.note("mended: %s of %s", f.Kind, f.Target)
		})
	}
}

// inject puts in one fault, waits, and mends it.
func (j *injector) inject(ctx context.Context, f Fault) error {
	verb, what, _ := strings.Cut(f.Kind, " ")
	switch {
	case strings.HasPrefix(f.Target, "link "):
		return j.spoil(ctx, f)
	case f.Kind == clockStep:
		j.rec.note("%s: %v ahead", f.Kind, aheadOf(f))
		err := j.fleet.Postgres.SetClock(aheadOf(f))
		pause(ctx, f.For)
		return errors.Join(err, j.fleet.Postgres.SetClock(0))
	case f.Kind == "fill disk":
		d := j.fleet.Daemons[full]
		err := d.Fill()
		pause(ctx, f.For)
		return errors.Join(err, d.Free())
	case what == "plugin":
		return j.hit(ctx, f, verb, []int{j.host(f.Target).Plugin()})
	case what == "supervisor":
		return j.hit(ctx, f, verb, j.host(f.Target).Supervisors())
	case what == "backend":
		return j.hit(ctx, f, verb, j.fleet.Postgres.Backends())
	}
	p := j.process(f.Target)
	if strings.HasSuffix(f.Kind, " at a commit") {
		return j.killAt(ctx, p, f)
	}
	if verb == "stop" {
		err := p.Signal(syscall.SIGSTOP)
		pause(ctx, f.For)
		return errors.Join(err, p.Signal(syscall.SIGCONT))
	}
	sig := map[string]syscall.Signal{
		"kill": syscall.SIGKILL, "drain": syscall.SIGTERM, "restart": syscall.SIGINT, "crash": syscall.SIGQUIT,
	}[verb]
	// Mended also when it takes its time to end.
	err := p.Down(context.WithoutCancel(ctx), sig)
	pause(ctx, f.For)
	p.Up()
	return err
}

// killAt kills a process at a place. For the first half of the fault's time it
// waits for somebody to come by.
func (j *injector) killAt(ctx context.Context, p *fleet.Process, f Fault) error {
	place := places(f.Target, f.Pick)
	begin := time.Now()
	defer p.Up()
	coming, cancel := context.WithTimeout(ctx, f.For/2)
	defer cancel()
	if err := p.At(coming, place, func() error {
		j.rec.note("%s: at %s", f.Kind, place)
		return p.Down(context.WithoutCancel(ctx), syscall.SIGKILL)
	}); err != nil {
		return err
	}
	pause(ctx, f.For-time.Since(begin))
	return nil
}

func (j *injector) host(target string) *fleet.Daemon {
	return j.fleet.Daemons[number(target)]
}

func (j *injector) process(target string) *fleet.Process {
	switch {
	case strings.HasPrefix(target, "api-"):
		return j.fleet.APIs[number(target)].Process
	case strings.HasPrefix(target, "host-"):
		return j.host(target).Process
	}
	return j.fleet.Postgres.Process
}

// number is the one at the end of a name.
func number(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	if err != nil {
		panic("no number in " + name) // of ours
	}
	return n
}

// hit kills or stops one of several processes.
func (j *injector) hit(ctx context.Context, f Fault, verb string, pids []int) error {
	if len(pids) == 0 || pids[0] == 0 {
		return errors.New("there is none")
	}
	pid := pids[f.Pick%uint64(len(pids))]
	fd, err := unix.PidfdOpen(pid, 0) // so that it cannot become another
	if errors.Is(err, unix.ESRCH) {
		return errors.New("it has just ended")
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	j.rec.note("%s: pid %d", f.Kind, pid)
	if verb == "kill" {
		return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	err = unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0)
	pause(ctx, f.For)
	if e := unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0); !errors.Is(e, unix.ESRCH) {
		err = errors.Join(err, e)
	}
	return err
}

// spoil makes a link bad.
func (j *injector) spoil(ctx context.Context, f Fault) error {
	l := j.link(f.Target)
	var err error
	switch f.Kind {
	case "delay":
		err = l.Delay(time.Duration(f.Pick%1500)*time.Millisecond, 100*time.Millisecond)
	case "starve":
		err = l.Starve(1)
	case "cut":
		l.Cut()
	case "drop both ways":
		err = l.Drop(fleet.There, fleet.Back)
	case "drop requests":
		err = l.Drop(fleet.There)
	case "drop answers":
		err = l.Drop(fleet.Back)
	case "turn":
		host := number(f.Target)
		err = j.fleet.Turn(host, (host+1)%apis)
		pause(ctx, f.For)
		return errors.Join(err, j.fleet.Turn(host, host%apis))
	default:
		return fmt.Errorf("no fault %q of a link", f.Kind)
	}
	pause(ctx, f.For)
	return errors.Join(err, l.Heal())
}

func (j *injector) link(target string) *fleet.Link {
	for i, a := range j.fleet.APIs {
		switch target {
		case fmt.Sprintf("link api-%d postgres", i):
			return a.DB
		case fmt.Sprintf("link clients api-%d", i):
			return a.Client
		}
	}
	return j.host(target).API
}

// pause waits, and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
