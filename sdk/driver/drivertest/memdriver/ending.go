package memdriver

import "sync"

// signalError is the signal that has ended a task.
type signalError string

func (s signalError) Error() string { return "ended by " + string(s) }

const errKilled = signalError("SIGKILL")

// ending happens at most once, with a signal.
type ending struct {
	done chan struct{} // closed when it has happened

	mu     sync.Mutex
	signal error
}

func newEnding() *ending { return &ending{done: make(chan struct{})} }

// end makes it happen; only the first one counts.
func (e *ending) end(signal signalError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.signal == nil {
		e.signal = signal
		close(e.done)
	}
}

// err is the signal, nil before it has happened.
func (e *ending) err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.signal
}
