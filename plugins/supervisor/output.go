package supervisor

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	frameHead = 32
	frameMax  = 64 << 10
	readSize  = 256 << 10
)

// Output reads an exec's output from an offset on, while it grows and after.
type Output struct {
	f      *os.File
	buf    []byte
	pos    int64 // in the file: of a frame
	used   int64 // of that frame's bytes, already delivered or before the offset
	offset int64 // of the next byte to deliver
	seen   int64 // offset of the frame at pos
}

// OpenOutput opens it; the first byte that is delivered is the one at offset.
func OpenOutput(dir, id string, offset int64) (*Output, error) {
	f, err := os.Open(filepath.Join(dir, "exec-"+id+".out"))
	if err != nil {
		return nil, err
	}
	return &Output{f: f, offset: offset}, nil
}

// Close closes the file.
func (o *Output) Close() { _ = o.f.Close() }

// Offset is that of the next byte.
func (o *Output) Offset() int64 { return o.offset }

// End is how many bytes of output lie before the place that was read to.
func (o *Output) End() int64 { return o.seen + o.used }

// Size is the file's size now; of a file that nobody writes any more it is
// what Deliver can read up to.
func (o *Output) Size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Deliver gives what lies in the file before size to sink. A frame that was
// not wholly written, as the last may be after a crash, ends it.
func (o *Output) Deliver(size int64, sink driver.Sink) error {
	if o.buf == nil {
		o.buf = make([]byte, readSize)
	}
	if err := o.step(size); err != nil {
		return err
	}
	for o.pos+frameHead+o.used < size {
		n, err := o.f.ReadAt(o.buf[:min(int64(len(o.buf)), size-o.pos)], o.pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return step.Errorf(step.KindInternal, "output: %w", err)
		}
		more, err := o.frames(o.buf[:n], sink)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// step leaves the frame that was read to its end, unless it has grown.
func (o *Output) step(size int64) error {
	end := o.pos + frameHead + o.used
	if o.used == 0 || end+frameHead > size {
		return nil
	}
	if _, err := o.f.ReadAt(o.buf[:frameHead], o.pos); err != nil {
		return step.Errorf(step.KindInternal, "output: %w", err)
	}
	if int64(binary.LittleEndian.Uint32(o.buf[24:])) == o.used {
		o.seen, o.pos, o.used = o.seen+o.used, end, 0
	}
	return nil
}

// frames delivers the frames that b begins with, and tells whether there may
// be more behind it.
func (o *Output) frames(b []byte, sink driver.Sink) (bool, error) {
	moved := false
	for len(b) >= frameHead {
		h := b[:frameHead]
		length := int64(binary.LittleEndian.Uint32(h[24:]))
		if binary.LittleEndian.Uint32(h) != frameMagic || length > frameMax {
			return false, step.Errorf(step.KindInternal, "output: the file is damaged at %d", o.pos)
		}
		if int64(len(b)) < frameHead+length {
			return moved, nil
		}
		at := int64(binary.LittleEndian.Uint64(h[8:]))
		o.seen = at
		if skip := min(max(o.used, o.offset-at), length); skip < length {
			data := b[frameHead+skip : frameHead+length]
			err := sink(driver.ExecEvent{Stream: driver.Stream(h[4]), Offset: at + skip, Data: data})
			if err != nil {
				return false, err
			}
			o.offset = at + length
		}
		o.used = length
		b = b[frameHead+length:]
		if len(b) < frameHead {
			// The last frame may still grow: stay on it.
			return moved, nil
		}
		o.pos += frameHead + length
		o.used = 0
		moved = true
	}
	return moved, nil
}
