package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nofx-run/nofx/internal/hclogslog"
)

// How much is taken of what a plugin writes, of each of its streams. Lines beyond it are counted, not
// logged; bytes beyond it make the plugin wait.
const (
	linesPerSecond = 200
	linesBurst     = 1000
	bytesPerSecond = 8 << 20
)

// pumpWords logs what a plugin writes until it ends; quiet gets the lines that are
// too light for the log, and may be nil.
func pumpWords(r io.Reader, log *slog.Logger, quiet *lastLines) {
	p := &pump{log: log, quiet: quiet, in: bufio.NewReaderSize(r, hclogslog.MaxLine), tokens: linesBurst, second: time.Now()}
	for p.next() {
	}
	p.report()
}

// pump is the state of one stream.
type pump struct {
	log     *slog.Logger
	quiet   *lastLines
	in      *bufio.Reader
	tokens  float64   // lines that may be logged at once
	second  time.Time // when the counts below began
	bytes   int       // read since then
	dropped int       // lines not logged since the last report
}

// next takes one line; false at the end.
func (p *pump) next() bool {
	line, err := p.in.ReadSlice('\n')
	p.bytes += len(line)
	p.slow()
	long := errors.Is(err, bufio.ErrBufferFull)
	if n := len(line); n > 0 && (err == nil || long || errors.Is(err, io.EOF)) {
		if line[n-1] == '\n' {
			line = line[:n-1]
		}
		p.logLine(line)
	}
	for long { // the rest of a line that is too long
		var rest []byte
		rest, err = p.in.ReadSlice('\n')
		p.bytes += len(rest)
		long = errors.Is(err, bufio.ErrBufferFull)
		p.slow()
	}
	return err == nil
}

// logLine logs a line, if the plugin has not said too much lately.
func (p *pump) logLine(line []byte) {
	if len(line) == 0 {
		return
	}
	if p.tokens < 1 {
		p.dropped++
		return
	}
	p.tokens--
	r := hclogslog.Parse(line, time.Now())
	ctx := context.Background()
	if p.log.Enabled(ctx, r.Level) {
		_ = p.log.Handler().Handle(ctx, r) // a log that cannot be written has no better place
	} else if p.quiet != nil {
		p.quiet.add(r.Message)
	}
}

// slow keeps the counts, and waits when the plugin writes faster than anybody
// could read.
func (p *pump) slow() {
	passed := time.Since(p.second)
	if p.bytes < bytesPerSecond && passed < time.Second {
		return
	}
	if left := time.Second - passed; left > 0 {
		time.Sleep(left)
		passed = time.Second
	}
	p.tokens = min(linesBurst, p.tokens+passed.Seconds()*linesPerSecond)
	p.second, p.bytes = time.Now(), 0
	p.report()
}

// report says how much was not logged.
func (p *pump) report() {
	if p.dropped > 0 {
		p.log.Warn("the plugin writes too much; lines were dropped", "lines", p.dropped)
		p.dropped = 0
	}
}

// maxLastLines is how many lines are told of when a plugin has died.
const maxLastLines = 10

// lastLines are the last of those that the log did not take: the plain text in
// which an interpreter or a loader says why it gave up.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLastLines {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
	l.lines = append(l.lines, line)
}

// tell logs them, once.
func (l *lastLines) tell(log *slog.Logger) {
	l.mu.Lock()
	lines := l.lines
	l.lines = nil
	l.mu.Unlock()
	if len(lines) > 0 {
		log.Warn("what the plugin wrote last", "lines", lines)
	}
}
