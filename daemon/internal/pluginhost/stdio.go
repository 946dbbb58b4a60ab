package pluginhost

import (
	"io"
	"log/slog"
	"sync"
)

// stdio is what comes of a plugin's stdout and stderr over the connection: a Go
// plugin's go there once it serves. It ends in the log like what comes through the
// pipes.
type stdio struct {
	out, err *io.PipeWriter
	logged   *sync.WaitGroup
}

func newStdio(log *slog.Logger) stdio {
	s := stdio{logged: &sync.WaitGroup{}}
	for _, to := range []**io.PipeWriter{&s.out, &s.err} {
		r, w := io.Pipe()
		*to = w
		s.logged.Go(func() { pumpWords(r, log, nil) })
	}
	return s
}

// close ends both, once the connection is closed.
func (s stdio) close() {
	_, _ = s.out.Close(), s.err.Close()
	s.logged.Wait()
}
