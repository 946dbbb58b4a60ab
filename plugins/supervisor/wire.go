package supervisor

import "encoding/binary"

// What src/proto.h says.
const (
	maxFrame    = 4 << 20
	maxReply    = 64 << 10
	maxDatagram = 192 << 10

	spawnTemplate = 1
	spawnCreate   = 2
	spawnContain  = 3

	cmdExec    = 1
	cmdWatch   = 2
	cmdSignal  = 3
	cmdStop    = 4
	cmdExtend  = 5
	cmdStatus  = 6
	cmdCopy    = 7
	cmdDestroy = 8

	replyOK    = 64
	replyError = 65
	replyNote  = 66

	fileBase = 1
	filePut  = 2
	fileDir  = 3
	fileLink = 4
	fileOut  = 5

	fileEntry = 66
	fileData  = 67
	fileEnd   = 68
)

// encoder appends the fields of a frame.
type encoder []byte

func (e *encoder) u8(v uint8)   { *e = append(*e, v) }
func (e *encoder) u32(v uint32) { *e = binary.LittleEndian.AppendUint32(*e, v) }
func (e *encoder) u64(v uint64) { *e = binary.LittleEndian.AppendUint64(*e, v) }

func (e *encoder) bytes(b []byte) {
	e.u32(uint32(len(b)))
	*e = append(*e, b...)
}

// str appends a string; it must have no NUL byte.
func (e *encoder) str(s string) {
	e.u32(uint32(len(s) + 1))
	*e = append(append(*e, s...), 0)
}

// decoder takes fields off a frame; once bad, always bad.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) str() string {
	n := d.u32()
	if n == 0 || n > maxFrame {
		d.bad = true
		return ""
	}
	b := d.take(int(n))
	if b == nil {
		return ""
	}
	return string(b[:n-1])
}
