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
// channel that is closed at the second. A third kills the process. stop gives
// the signals their usual meaning back.
func Watch(parent context.Context) (ctx context.Context, again <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	second := make(chan struct{})
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-quit:
				return
			case <-signals:
			}
			if n == 1 {
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
		close(quit)
		<-done
		cancel(nil)
	}
}

// IgnoreBrokenPipes makes writing to a reader that went away an error, where
// it would end the process.
func IgnoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }
