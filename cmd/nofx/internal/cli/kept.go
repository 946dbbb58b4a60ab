package cli

import (
	"errors"
	"io"
	"syscall"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
)

// kept is a writer that remembers its first error, so that what was lost on
// the way to a full disk is told whoever wrote it. A reader that went away
// wants no more, which is no error.
type kept struct {
	w    io.Writer
	err  error
	told bool
}

func (k *kept) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	if err != nil && k.err == nil {
		k.err = err
	}
	return n, err
}

// unwritten says, once, that not all of the output was written, and reports
// whether that is so.
func (a *app) unwritten() bool {
	if a.out.err != nil && !a.out.told {
		a.out.told = true
		a.say("not all of the output could be written: %s", render.Clean(a.out.err.Error()))
	}
	return a.out.err != nil
}
