package supervisor

import (
	"context"
	"encoding/binary"
	"io"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Files carries out file operations inside a sandbox, through a helper that
// runs there as the step's user. Its errors have the kind that the sandbox's
// own view suggests.
type Files struct {
	c *Conn
}

// OpenFiles starts a helper; it takes the connection over.
func (c *Conn) OpenFiles(ctx context.Context) (*Files, error) {
	if _, err := c.call(ctx, cmdCopy, nil); err != nil {
		return nil, err
	}
	return &Files{c: c}, nil
}

// Close ends the helper.
func (f *Files) Close() { f.c.Close() }

// kindOfErrno maps what a file operation met with.
func kindOfErrno(errno unix.Errno) step.Kind {
	switch errno {
	case unix.ENOENT:
		return step.KindNotFound
	case unix.EINVAL, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.EXDEV, unix.ENAMETOOLONG, unix.ENOTEMPTY, unix.EEXIST:
		return step.KindInvalid
	case unix.EPERM, unix.EACCES, unix.EROFS:
		return step.KindForbidden
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.E2BIG, unix.EOVERFLOW:
		return step.KindTooLarge
	case unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE:
		return step.KindUnavailable
	}
	return step.KindInternal
}

func fileError(body []byte) error {
	d := decoder{rest: body}
	errno, text := unix.Errno(d.u32()), d.str()
	if d.bad {
		return step.Errorf(step.KindInternal, "the file helper's error cannot be read")
	}
	return step.Errorf(kindOfErrno(errno), "%s", text)
}

// do sends a request and what follows it, and waits for the answer.
func (f *Files) do(ctx context.Context, request []byte, data io.Reader, size int64) error {
	return f.c.under(ctx, func() error {
		if err := f.request(request); err != nil {
			return err
		}
		if size > 0 {
			// The helper takes every byte, also of a file that it cannot write.
			t := &tracked{r: data}
			n, err := io.CopyN(f.c.c, t, size)
			if n < size && t.err != nil {
				return foreign{t.err}
			}
			if err != nil {
				return err
			}
		}
		kind, body, err := f.c.recv(maxReply)
		switch {
		case err != nil:
			return err
		case kind == replyOK:
			return nil
		case kind == replyError:
			return fileError(body)
		}
		return step.Errorf(step.KindInternal, "the file helper sent a frame of kind %d", kind)
	})
}

// tracked remembers why a reader ended.
type tracked struct {
	r   io.Reader
	err error
}

func (t *tracked) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.err = err; err == io.EOF && n == 0 {
		t.err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *Files) request(request []byte) error {
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(request)), uint32(len(request)))
	_, err := f.c.c.Write(append(frame, request...))
	return err
}

// Base says below which absolute path the names that follow are. It is made
// if it is missing; no link on the way is followed.
func (f *Files) Base(ctx context.Context, dir string) error {
	var e encoder
	e.u8(fileBase)
	e.str(dir)
	return f.do(ctx, e, nil, 0)
}

// Put writes a file of exactly size bytes in place of whatever has the name.
func (f *Files) Put(ctx context.Context, name string, mode uint32, size int64, data io.Reader) error {
	var e encoder
	e.u8(filePut)
	e.str(name)
	e.u32(mode)
	e.u64(uint64(size))
	return f.do(ctx, e, data, size)
}

// Dir makes a folder, or sets the mode of the one that is there.
func (f *Files) Dir(ctx context.Context, name string, mode uint32) error {
	var e encoder
	e.u8(fileDir)
	e.str(name)
	e.u32(mode)
	return f.do(ctx, e, nil, 0)
}

// Link makes a symbolic link in place of whatever has the name.
func (f *Files) Link(ctx context.Context, name, target string) error {
	var e encoder
	e.u8(fileLink)
	e.str(name)
	e.str(target)
	return f.do(ctx, e, nil, 0)
}

// Entry is one file ('f'), folder ('d') or link ('l') that comes out.
type Entry struct {
	Type   byte
	Mode   uint32
	MTime  int64 // s since 1970
	Size   int64 // of a file: what was announced
	Name   string
	Target string
}

// Receiver takes what comes out: entries, and after each file's its data.
type Receiver interface {
	Entry(Entry) error
	Data(p []byte) error
	End() error // of the file
}

// Out reads the file or tree at an absolute path.
func (f *Files) Out(ctx context.Context, path string, to Receiver) error {
	var e encoder
	e.u8(fileOut)
	e.str(path)
	return f.c.under(ctx, func() error {
		if err := f.request(e); err != nil {
			return err
		}
		for {
			kind, body, err := f.c.recv(128 << 10)
			if err != nil {
				return err
			}
			switch kind {
			case replyOK:
				return nil
			case replyError:
				return fileError(body)
			case fileEntry:
				d := decoder{rest: body}
				en := Entry{Type: d.u8(), Mode: d.u32(), MTime: int64(d.u64()), Size: int64(d.u64()), Name: d.str(), Target: d.str()}
				if d.bad || en.Size < 0 {
					return step.Errorf(step.KindInternal, "the file helper's entry cannot be read")
				}
				err = to.Entry(en)
			case fileData:
				err = to.Data(body)
			case fileEnd:
				err = to.End()
			default:
				return step.Errorf(step.KindInternal, "the file helper sent a frame of kind %d", kind)
			}
			if err != nil {
				return foreign{err}
			}
		}
	})
}
