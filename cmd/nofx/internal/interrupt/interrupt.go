// Package interrupt tells a first Ctrl-C, which asks for a good end, from a
// second, which asks for a quick one.
package interrupt

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// ErrInterrupted is the cause of the context that the first signal ends.
var ErrInterrupted = errors.New("interrupted")

// Watch returns a context that ends at the first SIGINT or SIGTERM, and a
// channel that is closed at the second. A third kills the process. A terminal
// that goes away asks for a good end, too, but never for a quick one: nobody
// there has lost patience. stop gives the signals their usual meaning back.
func Watch(parent context.Context) (ctx context.Context, again <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	hangup := make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(hangup, syscall.SIGHUP)
	}
	second := make(chan struct{})
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; {
			select {
			case <-quit:
				return
			case <-hangup:
				cancel(ErrInterrupted)
				n = max(n, 1)
				continue
			case <-signals:
			}
			if n++; n == 1 {
				cancel(ErrInterrupted)
				continue
			}
			close(second)
			signal.Stop(signals)
			return
		}
	}()
	return ctx, second, func() {
		signal.Stop(signals)
		signal.Stop(hangup)
		close(quit)
		<-done
		cancel(nil)
	}
}

// IgnoreBrokenPipes makes writing to a reader that went away an error, where
// it would end the process. Programs that it starts do not inherit that.
func IgnoreBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
