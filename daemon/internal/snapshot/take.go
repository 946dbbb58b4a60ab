package snapshot

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A layer is a tar archive, compressed. Its first member lists what is gone, each
// path with a NUL after it; the others are the files below treePrefix, whose
// names are any bytes.
const (
	goneName   = "gone"
	treePrefix = "tree/"
)

// Taken is what came of a snapshot.
type Taken struct {
	Index   *Index // of the tree now; its place in the chain is still that of the old one
	Changed bool   // there is a layer
	Full    bool   // it is a chain's first
	Bytes   int64  // of the files in it
}

// Take writes what has changed in a tree since an index of it was made, or all
// when there is none (nil), or when a chain has become long. Where nothing has
// changed nothing is written. busy says that others may be at work in the tree.
// What cannot be saved is a *RefusedError; other errors are those of reading and
// writing.
func Take(ctx context.Context, dir string, old *Index, busy bool, limit int64, to io.Writer) (Taken, error) {
	t, err := openTree(dir)
	if err != nil {
		return Taken{}, err
	}
	defer t.close()
	s := shot{tree: t, old: old, busy: busy, limit: limit, now: time.Now()}
	if s.found, err = t.scan(ctx); err != nil {
		return Taken{}, err
	}
	if err := s.compare(ctx); err != nil {
		return Taken{}, err
	}
	out := Taken{Index: &Index{entries: s.found}}
	if old != nil {
		if len(s.changed) == 0 && len(s.gone) == 0 {
			out.Index.Seq, out.Index.Layers, out.Index.Full, out.Index.Rest = old.Seq, old.Layers, old.Full, old.Rest
			return out, nil
		}
		out.Index.Seq, out.Index.Layers, out.Index.Full, out.Index.Rest = old.Seq, old.Layers, old.Full, old.Rest
	}
	out.Changed = true
	if out.Full, err = s.choose(); err != nil {
		return Taken{}, err
	}
	if out.Full {
		s.changed, s.gone, s.bytes = slices.Sorted(maps.Keys(s.found)), nil, s.total
	}
	out.Bytes = s.bytes
	return out, s.write(ctx, to)
}

// shot is one snapshot.
type shot struct {
	tree  *tree
	old   *Index // nil = none
	busy  bool
	limit int64
	now   time.Time // before the tree was looked at

	found         map[string]entry
	changed, gone []string
	bytes, total  int64 // of what has changed, and of the whole tree
}

func (s *shot) compare(ctx context.Context) error {
	for path, e := range s.found {
		s.total += weight(path, e)
		if s.old == nil {
			continue
		}
		before, there := s.old.entries[path]
		same := there && e.same(before)
		if same && before.sum != (sum{}) {
			now, err := s.content(ctx, path, e)
			if err != nil {
				return err
			}
			if same = now == before.sum; same && e.fresh(s.now) {
				e.sum = now
				s.found[path] = e
			}
		}
		if !same {
			s.changed, s.bytes = append(s.changed, path), s.bytes+weight(path, e)
		}
	}
	if s.old == nil {
		return nil
	}
	for path, e := range s.old.entries {
		if now, there := s.found[path]; !there || now.kind != e.kind {
			s.gone, s.bytes = append(s.gone, path), s.bytes+int64(len(path))
		}
	}
	slices.Sort(s.changed)
	slices.Sort(s.gone)
	return nil
}

// weight bounds a file's size, which a step may make any: a tree's sum is one, too.
func weight(path string, e entry) int64 {
	const most = math.MaxInt64 / (2 * (MaxEntries + 1)) // tens of TiB
	return min(e.size, most) + int64(len(path))
}

// choose says whether the layer is to be a full one: the first is, and then one
// whenever it costs little next to what it saves. What is as long as it may be
// cannot be added to.
func (s *shot) choose() (full bool, err error) {
	fits := s.total <= s.limit
	switch {
	case s.old == nil || s.old.Layers == 0 || s.old.Layers >= MaxLayers:
		if !fits {
			return false, &RefusedError{Reason: "too_large", Bytes: s.total, Limit: s.limit}
		}
		return true, nil
	case fits && (s.old.Layers >= goodLayers || s.old.Rest > 2*s.old.Full || s.bytes > s.total/2):
		return true, nil
	case s.bytes > s.limit:
		return false, &RefusedError{Reason: "too_large", Bytes: s.bytes, Limit: s.limit}
	}
	return false, nil
}

// content is the sum of what is at a path now.
func (s *shot) content(ctx context.Context, path string, e entry) (sum, error) {
	h := sha256.New()
	switch e.kind {
	case link:
		target, err := s.tree.target(path)
		if err != nil && !gone(err) {
			return sum{}, err
		}
		_, _ = io.WriteString(h, target)
	case file:
		f, _, err := s.tree.regular(path)
		if err != nil {
			if gone(err) {
				return sum{}, nil
			}
			return sum{}, err
		}
		defer f.Close()
		if _, err := io.Copy(h, io.LimitReader(patient(ctx, f), e.size)); err != nil {
			return sum{}, err
		}
	}
	return sumOf(h), nil
}

func sumOf(h hash.Hash) (out sum) {
	copy(out[:], h.Sum(nil))
	return out
}

// patient reads until ctx ends.
func patient(ctx context.Context, from io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return from.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (s *shot) write(ctx context.Context, to io.Writer) error {
	z, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	var list strings.Builder
	for _, path := range s.gone {
		list.WriteString(path + "\x00")
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: goneName, Size: int64(list.Len()), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.WriteString(w, list.String()); err != nil {
		return err
	}
	for _, path := range s.changed {
		if err := s.member(ctx, w, path); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close())
}

// member adds what is at a path. What is not there any more, as it was seen, is
// left to the next layer.
func (s *shot) member(ctx context.Context, w *tar.Writer, path string) error {
	e := s.found[path]
	h := &tar.Header{Name: treePrefix + path, Mode: int64(e.mode), ModTime: time.Unix(0, e.mtime), Format: tar.FormatPAX}
	var err error
	switch e.kind {
	case folder:
		h.Typeflag = tar.TypeDir
		return w.WriteHeader(h)
	case link:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = s.tree.target(path); err == nil {
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if e.fresh(s.now) {
				sha := sha256.New()
				_, _ = io.WriteString(sha, h.Linkname)
				e.sum = sumOf(sha)
				s.found[path] = e
			}
			return nil
		}
	case file:
		h.Typeflag, h.Size = tar.TypeReg, e.size
		if err = s.copy(ctx, w, h, path, e); err == nil {
			return nil
		}
	}
	if !gone(err) {
		return err
	}
	e.kind = unknown
	s.found[path] = e
	return nil
}

// copy adds a file with the size that it had: what is missing by now is zeros,
// what has come since is not there.
func (s *shot) copy(ctx context.Context, w *tar.Writer, h *tar.Header, path string, e entry) error {
	f, _, err := s.tree.regular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if s.busy {
		// Of a page that somebody has mapped only the first change after it was
		// written out moves the file's times: so the next one does.
		const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := unix.SyncFileRange(int(f.Fd()), 0, 0, all); err != nil {
			return err
		}
	}
	sha := sha256.New()
	to := io.Writer(w)
	if e.fresh(s.now) {
		to = io.MultiWriter(w, sha)
	}
	n, err := io.Copy(to, io.LimitReader(patient(ctx, f), e.size))
	if err != nil {
		return err
	}
	if n < e.size {
		if _, err := io.CopyN(to, zeros{}, e.size-n); err != nil {
			return err
		}
	}
	if e.fresh(s.now) {
		e.sum = sumOf(sha)
		s.found[path] = e
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
