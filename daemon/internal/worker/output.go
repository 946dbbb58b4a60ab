package worker

import (
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// gatherOutput is how long a small piece of output waits for more, so that a
// million tiny writes do not become a million records.
const gatherOutput = 5 * time.Millisecond

// overOutput is what a driver may add to the output that a step may have, in bytes.
// One that does not keep to it would fill the disk that all steps of this host share.
const overOutput = 1 << 20

// output brings a step's output into the journal, each byte once and in order
// however often the stream is begun anew, and keeps the first bytes of each
// stream for the verdict.
type output struct {
	a *attempt

	mu     sync.Mutex
	seen   int64 // the offset up to which the streams were taken in here
	stored int64 // the offset up to which output is journaled or pending
	stream driver.Stream
	buf    []byte // pending, of one stream
	timer  *time.Timer
	err    error // a write to the journal failed
	cut    bool  // the disk is full: what comes is not stored any more

	stdout, stderr         []byte
	stdoutMore, stderrMore bool
}

func newOutput(a *attempt) *output {
	o := &output{a: a, stored: a.journal.Position().Output}
	o.timer = time.AfterFunc(time.Hour, o.flush)
	o.timer.Stop()
	return o
}

// resume is the offset to attach from. A process that did not start the step
// reads from the first byte, for the verdict's sake; what the journal has
// already is not written again.
func (o *output) resume() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}

// write takes in a piece of output. Its data is the driver's again afterwards.
func (o *output) write(e driver.ExecEvent) error {
	o.a.hold(failpoint.Output)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	data, at := e.Data, e.Offset
	if at > o.seen {
		return step.Errorf(step.KindInternal, "output at %d does not follow on %d", at, o.seen)
	}
	if skip := o.seen - at; skip >= int64(len(data)) {
		return nil
	} else if skip > 0 {
		data, at = data[skip:], o.seen
	}
	o.seen += int64(len(data))
	if limit := o.a.lease.Resources.OutputKB << 10; limit > 0 && o.seen > limit+overOutput {
		return step.Errorf(step.KindInternal, "the driver passes on more than the %d bytes of output that the step may have", limit)
	}
	o.head(e.Stream, data)
	if skip := o.stored - at; skip >= int64(len(data)) {
		return nil
	} else if skip > 0 {
		data = data[skip:]
	}
	if e.Stream != o.stream {
		o.put()
		o.stream = e.Stream
	}
	for len(data) > 0 {
		n := min(len(data), wire.MaxOutputRecord-len(o.buf))
		o.buf, data = append(o.buf, data[:n]...), data[n:]
		o.stored += int64(n)
		if len(o.buf) == wire.MaxOutputRecord {
			o.put()
		}
	}
	if len(o.buf) > 0 {
		o.timer.Reset(gatherOutput)
	}
	return o.err
}

func (o *output) head(s driver.Stream, data []byte) {
	into, more := &o.stdout, &o.stdoutMore
	if s == driver.Stderr {
		into, more = &o.stderr, &o.stderrMore
	}
	n := min(len(data), wire.MaxVerdictStream-len(*into))
	*into = append(*into, data[:n]...)
	*more = *more || n < len(data)
}

// put journals what is pending. The lock is held.
func (o *output) put() {
	if len(o.buf) == 0 || o.err != nil || o.cut {
		o.buf = o.buf[:0]
		return
	}
	stream := wire.Stdout
	if o.stream == driver.Stderr {
		stream = wire.Stderr
	}
	o.err = o.a.append(wire.Record{Type: wire.RecordOutput, Output: &wire.OutputRecord{
		Stream: stream, Offset: o.stored - int64(len(o.buf)), Data: o.buf,
	}})
	o.buf = o.buf[:0]
	if journal.Full(o.err) {
		o.err, o.cut = nil, true
		o.a.log.Error("output is not stored any more: the disk is full", "from", o.a.journal.Position().Output)
	}
}

const notStored = "output could not be stored: the disk of the worker's data_dir is full"

// own has a verdict own up to output that is not stored: a full disk costs
// output, never the truth about how the step ended.
func (o *output) own(v *step.Verdict) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.cut {
		return
	}
	v.Output.StoredBytes, v.Output.Truncated = o.a.journal.Position().Output, true
	v.Output.TotalBytes = max(v.Output.TotalBytes, o.seen)
	if v.Message == "" { // else the sandbox's supervisor, on the same disk, may have said so, too
		v.Message = notStored
	} else if !strings.Contains(v.Message, "could not be stored") {
		v.Message += "; " + notStored
	}
}

// flush journals what is pending now.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer.Stop()
	o.put()
}

// failed says why output was not journaled; nil when all was.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// record is the verdict's record as far as output goes.
func (o *output) record() wire.VerdictRecord {
	o.mu.Lock()
	defer o.mu.Unlock()
	return wire.VerdictRecord{
		Stdout: o.stdout, StdoutTruncated: o.stdoutMore,
		Stderr: o.stderr, StderrTruncated: o.stderrMore,
	}
}
