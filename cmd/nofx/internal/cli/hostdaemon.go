package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	sweepTime  = 5 * time.Minute
	signOfLife = 10 * time.Second // that a daemon may take for one
	askForLife = 5 * time.Second
	maxSweep   = 64 << 20 // bytes of a report
)

// hostDaemon is the daemon behind a socket on this host. One that is stopped, or
// hangs, still has the kernel take its calls: so it is asked for a sign of life
// for as long as a call lasts.
type hostDaemon struct {
	socket   string
	patience time.Duration // for a sign of life
	every    time.Duration // it is asked for one
	pid      atomic.Int64  // of who listens, once somebody was reached
}

// sweep has it sweep, or tell what a sweep would do.
func (d *hostDaemon) sweep(ctx context.Context, dry bool) (report wire.SweepReport, _ error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	transport := &http.Transport{DialContext: d.dial}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	if err := d.alive(ctx, client); err != nil {
		return report, err
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.watch(ctx, client, giveUp)
	}()
	defer func() { giveUp(nil); <-watched }()
	method := http.MethodPost
	if dry {
		method = http.MethodGet
	}
	resp, err := d.ask(ctx, client, method, "/sweep")
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		err = json.NewDecoder(io.LimitReader(resp.Body, maxSweep)).Decode(&report)
	}
	var silent *step.Error
	switch {
	case err == nil:
		return report, nil
	case errors.As(context.Cause(ctx), &silent):
		return report, silent
	}
	return report, fmt.Errorf("the daemon's report: %w", err)
}

// watch gives the call up when the daemon is silent.
func (d *hostDaemon) watch(ctx context.Context, client *http.Client, giveUp context.CancelCauseFunc) {
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := d.alive(ctx, client); err != nil && ctx.Err() == nil {
			giveUp(err)
			return
		}
	}
}

// alive asks for something that it has at hand.
func (d *hostDaemon) alive(ctx context.Context, client *http.Client) error {
	short, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	resp, err := d.ask(short, client, http.MethodGet, "/alive")
	switch {
	case err == nil: // an earlier version does not have it, and lives all the same
		return resp.Body.Close()
	case ctx.Err() != nil:
		return ctx.Err()
	case short.Err() != nil && d.pid.Load() != 0:
		return d.silent()
	}
	return step.Errorf(step.KindUnavailable, "no daemon answers at %s: is it running, are you root, is --data its data_dir? (%w)", d.socket, err)
}

func (d *hostDaemon) ask(ctx context.Context, client *http.Client, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://nofxd"+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

func (d *hostDaemon) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	if err != nil {
		return nil, err
	}
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				d.pid.Store(int64(cred.Pid))
			}
		})
	}
	return c, nil
}

// silent is that the daemon does not answer, and what to do.
func (d *hostDaemon) silent() error {
	pid := d.pid.Load()
	if stopped(pid) {
		return step.Errorf(step.KindUnavailable, "the daemon at %s is process %d, which is stopped and gave no answer within %v; to have it go on, type: kill -CONT %d", d.socket, pid, d.patience, pid)
	}
	return step.Errorf(step.KindUnavailable, "the daemon at %s, process %d, gave no answer within %v; look at its log (journalctl -u nofxd), and if it hangs, restart it: running steps go on meanwhile", d.socket, pid, d.patience)
}

// stopped reports whether a process was stopped by a signal or is being traced.
func stopped(pid int64) bool {
	stat, err := os.ReadFile("/proc/" + strconv.FormatInt(pid, 10) + "/stat")
	if err != nil {
		return false
	}
	state := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(state) > 0 && (state[0][0] == 'T' || state[0][0] == 't')
}
