package supervised

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of one archive.
const (
	maxEntries   = 200_000
	maxCopyBytes = 16 << 30
	maxName      = 4095
)

// files starts a file helper in the sandbox.
func (b *Boxes) files(ctx context.Context, h driver.Handle, dir string) (*supervisor.Files, error) {
	c, err := supervisor.Dial(ctx, dir)
	if err == nil {
		var f *supervisor.Files
		if f, err = c.OpenFiles(ctx); err == nil {
			return f, nil
		}
		c.Close()
	}
	if errors.Is(err, supervisor.ErrGone) {
		err = step.Errorf(step.KindConflict, "sandbox %s has ended", h.ID)
	}
	return nil, b.absent(h, dir, err)
}

// source remembers the error of a reader, to tell it from the archive's own.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// CopyIn implements driver.Driver.
func (b *Boxes) CopyIn(ctx context.Context, h driver.Handle, to string, archive io.Reader) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	if !path.IsAbs(to) || strings.ContainsRune(to, 0) || len(to) > maxName {
		return step.Errorf(step.KindInvalid, "the folder to copy to is not an absolute path")
	}
	f, err := b.files(ctx, h, dir)
	if err != nil {
		return err
	}
	defer f.Close()
	src := &source{r: archive}
	if err = f.Base(ctx, path.Clean(to)); err == nil {
		err = unpack(ctx, f, tar.NewReader(src))
	}
	switch {
	case src.err != nil:
		return src.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, tar.ErrWriteTooLong):
		return step.Errorf(step.KindInvalid, "the archive cannot be read: %w", err)
	case errors.Is(err, supervisor.ErrGone):
		return step.Errorf(step.KindConflict, "the sandbox ended while files were copied in")
	}
	return err
}

func unpack(ctx context.Context, f *supervisor.Files, t *tar.Reader) error {
	total := int64(0)
	for n := 0; ; n++ {
		e, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if total += e.Size; n >= maxEntries || total > maxCopyBytes {
			return step.Errorf(step.KindTooLarge, "the archive has more than %d entries or %d bytes", maxEntries, int64(maxCopyBytes))
		}
		name, err := entryName(e)
		if err != nil {
			return err
		}
		mode := uint32(e.Mode) & 0o777
		switch e.Typeflag {
		case tar.TypeReg:
			err = f.Put(ctx, name, mode, e.Size, t)
		case tar.TypeDir:
			if name == "." {
				continue
			}
			err = f.Dir(ctx, name, mode)
		case tar.TypeSymlink:
			if e.Linkname == "" || len(e.Linkname) > maxName || strings.ContainsRune(e.Linkname, 0) {
				return step.Errorf(step.KindInvalid, "%.200q: the link's target is no path", e.Name)
			}
			err = f.Link(ctx, name, e.Linkname)
		default:
			return step.Errorf(step.KindInvalid, "%.200q: an entry of type %q is neither file, folder nor symbolic link", e.Name, e.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}

// entryName checks a name and gives it without what means nothing in it.
func entryName(e *tar.Header) (string, error) {
	refuse := func(why string) (string, error) {
		return "", step.Errorf(step.KindInvalid, "the archive's name %.200q %s", e.Name, why)
	}
	switch {
	case e.Name == "" || len(e.Name) > maxName:
		return refuse("is empty or too long")
	case strings.ContainsRune(e.Name, 0):
		return refuse("has a NUL byte")
	case path.IsAbs(e.Name):
		return refuse("is absolute")
	case e.Typeflag != tar.TypeDir && strings.HasSuffix(e.Name, "/"):
		return refuse("ends in a slash and is no folder")
	}
	for part := range strings.SplitSeq(e.Name, "/") {
		if part == ".." {
			return refuse("leaves its folder")
		}
		if len(part) > 255 {
			return refuse("has a part of more than 255 bytes")
		}
	}
	name := path.Clean(e.Name)
	if name == "." && e.Typeflag != tar.TypeDir {
		return refuse("names the folder itself")
	}
	return name, nil
}

// CopyOut implements driver.Driver.
func (b *Boxes) CopyOut(ctx context.Context, h driver.Handle, from string, limit int64, archive io.Writer) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	if !path.IsAbs(from) || strings.ContainsRune(from, 0) || len(from) > maxName {
		return step.Errorf(step.KindInvalid, "what to copy out is not an absolute path")
	}
	if limit <= 0 {
		limit = maxCopyBytes
	}
	f, err := b.files(ctx, h, dir)
	if err != nil {
		return err
	}
	defer f.Close()
	p := &packer{t: tar.NewWriter(archive), left: limit}
	err = f.Out(ctx, path.Clean(from), p)
	if errors.Is(err, supervisor.ErrGone) {
		return step.Errorf(step.KindConflict, "the sandbox ended while files were copied out")
	}
	if err != nil {
		return err
	}
	return p.t.Close()
}

// packer writes what comes out of a sandbox into an archive.
type packer struct {
	t       *tar.Writer
	left    int64  // bytes of files that may still come
	name    string // of the file whose data comes
	missing int64  // of that file
}

// Entry implements supervisor.Receiver.
func (p *packer) Entry(e supervisor.Entry) error {
	h := &tar.Header{Name: e.Name, Mode: int64(e.Mode), ModTime: time.Unix(e.MTime, 0), Format: tar.FormatPAX}
	switch e.Type {
	case 'f':
		h.Typeflag, h.Size = tar.TypeReg, e.Size
		if p.left -= e.Size; p.left < 0 {
			return step.Errorf(step.KindTooLarge, "%.200q: the files are larger than the limit", e.Name)
		}
		p.name, p.missing = e.Name, e.Size
	case 'd':
		h.Typeflag, h.Name = tar.TypeDir, e.Name+"/"
	case 'l':
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	default:
		return step.Errorf(step.KindInternal, "the file helper sent an entry of type %q", e.Type)
	}
	return p.t.WriteHeader(h)
}

// Data implements supervisor.Receiver.
func (p *packer) Data(b []byte) error {
	if int64(len(b)) > p.missing {
		return step.Errorf(step.KindInternal, "%.200q: more bytes came than were announced", p.name)
	}
	p.missing -= int64(len(b))
	_, err := p.t.Write(b)
	return err
}

// End implements supervisor.Receiver.
func (p *packer) End() error {
	if p.missing > 0 {
		return step.Errorf(step.KindInvalid, "%.200q became shorter while it was copied", p.name)
	}
	return nil
}
