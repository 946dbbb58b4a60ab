package rootfs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"hash"
	"io"

	"github.com/nofx-run/nofx/sdk/step"
)

// Limits bound a tree, whatever its archive says or grows to.
type Limits struct {
	Size    int64 // bytes in files
	Entries int
}

// DefaultLimits are generous for a whole distribution.
func DefaultLimits() Limits { return Limits{Size: 8 << 30, Entries: 1_000_000} }

// headers is what an archive may hold beside the bytes of files, for each
// entry and for all: names, times, attributes, padding.
const headers = 2 << 10

// archive is a tar stream with its compression undone. sum is that of all
// bytes that came, and complete after drain.
type archive struct {
	raw   *bufio.Reader
	plain io.Reader
	left  int64
	sum   hash.Hash
	stop  func()
}

// open reads from a source until ctx ends, also one whose reads do not end
// then, such as a terminal.
func open(ctx context.Context, from Source, limits Limits) *archive {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, from)
		_ = w.CloseWithError(err)
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.CloseWithError(context.Cause(ctx)) })
	a := &archive{sum: sha256.New(), left: limits.Size + int64(limits.Entries)*headers, stop: func() { stop(); _ = r.Close() }}
	a.raw = bufio.NewReaderSize(io.TeeReader(r, a.sum), 1<<20)
	return a
}

// Close lets go of the source.
func (a *archive) Close() { a.stop() }

// Read implements io.Reader.
func (a *archive) Read(p []byte) (n int, err error) {
	if a.plain == nil {
		if a.plain, err = a.decompress(); err != nil {
			return 0, err
		}
	}
	if a.left <= 0 {
		return 0, step.Errorf(step.KindTooLarge, "the archive is too large for a root file system of at most the size given (--max-size)")
	}
	if int64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err = a.plain.Read(p)
	a.left -= int64(n)
	return n, err
}

// decompress looks at the first bytes.
func (a *archive) decompress() (io.Reader, error) {
	head, err := a.raw.Peek(6)
	if len(head) == 0 && err != nil {
		return nil, err
	}
	for magic, program := range map[string]string{"\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz", "BZh": "bzip2"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil, step.Errorf(step.KindUnsupported, "the archive is compressed with %s; type: %[1]s -dc FILE | nofx rootfs import NAME -", program)
		}
	}
	if bytes.HasPrefix(head, []byte("\x1f\x8b")) {
		return gzip.NewReader(a.raw)
	}
	return a.raw, nil
}

// drain reads what is behind the end of the archive, so that sum is that of
// the whole file.
func (a *archive) drain() error {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, io.LimitReader(a.raw, a.left))
	return err
}
