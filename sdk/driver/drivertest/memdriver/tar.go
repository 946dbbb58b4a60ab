package memdriver

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Bounds of file transfer.
const (
	maxEntries     = 1 << 20
	defaultCopyOut = 1 << 30 // bytes
)

// copyIn unpacks a tar stream below dir.
func (f *files) copyIn(ctx context.Context, dir string, in io.Reader) error {
	if !path.IsAbs(dir) {
		return step.Errorf(step.KindInvalid, "the folder %.200q is not absolute", dir)
	}
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		if n == maxEntries {
			return step.Errorf(step.KindTooLarge, "the archive has more than %d entries", maxEntries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if h.Size > maxOutput {
			return step.Errorf(step.KindTooLarge, "%.200q has %d bytes", h.Name, h.Size)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return tarError(err)
		}
		if err := f.unpack(dir, h, data); err != nil {
			return err
		}
	}
}

// tarError keeps the kind of a broken transport; a broken archive is invalid.
func tarError(err error) error {
	var e *step.Error
	if errors.As(err, &e) {
		return err
	}
	return step.Errorf(step.KindInvalid, "not a tar archive: %w", err)
}

// unpack makes one entry of an archive.
func (f *files) unpack(dir string, h *tar.Header, data []byte) error {
	refuse := func(why string) error { return step.Errorf(step.KindInvalid, "entry %.300q %s", h.Name, why) }
	name := strings.TrimSuffix(h.Name, "/")
	switch {
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return refuse("has no usable name")
	case path.IsAbs(name) || !fs.ValidPath(path.Clean(name)):
		return refuse("leaves the folder")
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return refuse("leaves the folder")
		}
		if len(part) > maxNameLength {
			return refuse("has too long a name")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	base, err := f.walk(dir, true)
	if err != nil || base.node == nil || base.node.kids == nil {
		return step.Errorf(step.KindNotFound, "there is no folder %.300q", dir)
	}
	name = path.Clean(name)
	if name == "." {
		return nil
	}
	parent, err := f.makeParents(base, path.Dir(name))
	if err != nil {
		return refuse(err.Error())
	}
	old := parent.kids[path.Base(name)]
	var made *node
	perm := fs.FileMode(h.Mode) & fs.ModePerm
	switch h.Typeflag {
	case tar.TypeReg:
		made = &node{mode: perm, data: data}
	case tar.TypeDir:
		if old != nil && old.kids != nil {
			old.mode = fs.ModeDir | perm
			return nil
		}
		made = newDir()
		made.mode = fs.ModeDir | perm
	case tar.TypeSymlink:
		made = &node{mode: fs.ModeSymlink | 0o777, target: h.Linkname}
	default:
		return refuse("is neither a file nor a folder nor a symbolic link")
	}
	if old != nil {
		if old.kids != nil {
			return refuse("would replace a folder")
		}
		f.used -= old.size()
	}
	if f.limit > 0 && f.used+int64(len(data)) > f.limit {
		return step.Errorf(step.KindTooLarge, "entry %.300q: %w", h.Name, errNoSpace)
	}
	f.used += int64(len(data))
	parent.kids[path.Base(name)] = made
	return nil
}

// makeParents makes the folders of rel below base and gives the last one. A
// link on the way is an error: what it points to may be outside.
func (f *files) makeParents(base place, rel string) (*node, error) {
	at := base.node
	if rel == "." {
		return at, nil
	}
	for _, part := range strings.Split(rel, "/") {
		next := at.kids[part]
		switch {
		case next == nil:
			next = newDir()
			at.kids[part] = next
		case next.mode&fs.ModeSymlink != 0:
			return nil, errors.New("goes through a symbolic link")
		case next.kids == nil:
			return nil, errNotDir
		}
		at = next
	}
	return at, nil
}

// copyOut writes the file or folder at name as a tar stream.
func (f *files) copyOut(ctx context.Context, name string, limit int64, out io.Writer) error {
	if !path.IsAbs(name) {
		return step.Errorf(step.KindInvalid, "the path %.200q is not absolute", name)
	}
	if limit <= 0 {
		limit = defaultCopyOut
	}
	// The lock is not held while somebody slow reads: what is sent is a
	// picture of this moment.
	f.mu.Lock()
	at, err := f.walk(name, false)
	if err != nil || at.node == nil {
		f.mu.Unlock()
		return step.Errorf(step.KindNotFound, "there is no file %.300q", name)
	}
	base := at.name
	if base == "" {
		base = "."
	}
	var entries []entry
	at.node.list(base, &entries)
	f.mu.Unlock()

	w := tar.NewWriter(out)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if limit -= int64(len(e.node.data)); limit < 0 {
			return step.Errorf(step.KindTooLarge, "%.300q has more bytes than may be copied", name)
		}
		h := &tar.Header{Name: e.name, Mode: int64(e.node.mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch {
		case e.node.mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.node.target
		case e.node.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.node.data))
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(e.node.data); err != nil {
			return err
		}
	}
	return w.Close()
}

// entry is one file of a picture.
type entry struct {
	name string
	node node
}

// list adds n and all below it, folders first, in the order of their names.
func (n *node) list(name string, to *[]entry) {
	*to = append(*to, entry{name: name, node: *n})
	names := make([]string, 0, len(n.kids))
	for kid := range n.kids {
		names = append(names, kid)
	}
	sort.Strings(names)
	for _, kid := range names {
		n.kids[kid].list(path.Join(name, kid), to)
	}
}
