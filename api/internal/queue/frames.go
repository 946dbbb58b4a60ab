package queue

import (
	"encoding/binary"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Output is stored in frames: one byte for the stream, four for the length,
// then the bytes.
const frameHead = 5

// appendFrame adds a piece of output.
func appendFrame(to []byte, stream wire.Stream, data []byte) []byte {
	kind := byte(1)
	if stream == wire.Stderr {
		kind = 2
	}
	to = append(to, kind)
	to = binary.BigEndian.AppendUint32(to, uint32(len(data))) //nolint:gosec // a record is bounded
	return append(to, data...)
}

// Frames calls fn with each piece in stored frames, until fn is false. Offsets
// count from start.
func Frames(stored []byte, start int64, fn func(stream wire.Stream, offset int64, data []byte) bool) error {
	for len(stored) > 0 {
		if len(stored) < frameHead {
			return step.Errorf(step.KindInternal, "stored output is broken")
		}
		n := int(binary.BigEndian.Uint32(stored[1:]))
		if n > len(stored)-frameHead {
			return step.Errorf(step.KindInternal, "stored output is broken")
		}
		stream := wire.Stdout
		if stored[0] == 2 {
			stream = wire.Stderr
		}
		if !fn(stream, start, stored[frameHead:frameHead+n]) {
			return nil
		}
		start += int64(n)
		stored = stored[frameHead+n:]
	}
	return nil
}
