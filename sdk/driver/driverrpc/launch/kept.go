package launch

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver/driverrpc/child"
)

// How much of a plugin's stderr is kept.
const (
	keptLines = 20
	keptWidth = 500 // bytes of a line
)

// kept is a plugin's process whose last lines on stderr are kept.
type kept struct {
	*child.Process
	network string        // namespace that it starts in; "" = ours
	read    chan struct{} // closed when its stderr was read to the end

	mu    sync.Mutex
	lines []string
	freed bool
}

// Start implements runner.Runner.
func (c *kept) Start(ctx context.Context) error {
	start := func() error { return c.Process.Start(ctx) }
	if c.network != "" {
		start = func() error { return within(c.network, func() error { return c.Process.Start(ctx) }) }
	}
	if err := start(); err != nil {
		return err
	}
	go c.readStderr()
	go func() { _, _ = io.Copy(io.Discard, c.Words()) }() // ends with the process
	return nil
}

// within calls do on a thread of its own that is in a network namespace: a
// process that it starts is there too.
func within(path string, do func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	return <-done
}

// readStderr keeps the last lines.
func (c *kept) readStderr() {
	defer close(c.read)
	in := bufio.NewReaderSize(c.Errors(), 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if text := strings.TrimRight(string(line[:min(len(line), keptWidth)]), "\r\n"); text != "" {
			c.mu.Lock()
			c.lines = append(c.lines, strings.ToValidUTF8(text, "�"))
			c.lines = c.lines[max(0, len(c.lines)-keptLines):]
			c.mu.Unlock()
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (c *kept) lastLines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// endedSoon is Ended, for a process that has closed its pipes and may be about
// to end.
func (c *kept) endedSoon() string {
	if c.PID() != 0 {
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-c.Done():
		case <-timer.C:
		}
	}
	return c.Ended()
}

// release waits for a killed process and closes what is left of it.
func (c *kept) release() {
	c.mu.Lock()
	freed := c.freed
	c.freed = true
	c.mu.Unlock()
	if freed {
		return
	}
	if c.PID() != 0 {
		<-c.Done()
		<-c.read
	}
	c.Release()
}
