package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

const (
	maxName  = 4095
	maxPart  = 255
	maxDepth = 128
	// rights are what an entry keeps of its mode: the set-id bits give nothing
	// in a sandbox, and nobody but root writes to a tree.
	rights = 0o755
)

// unpacker fills a tree. Every name is resolved inside of it by the kernel:
// os.Root follows a link of the archive only to what is in the tree.
type unpacker struct {
	root    *os.Root
	limits  Limits
	bytes   int64
	entries int
	left    Left
}

// unpack fills the folder tree from an archive and reads that to its end.
func unpack(tree string, a *archive, limits Limits) (*unpacker, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	u := &unpacker{root: root, limits: limits}
	t := tar.NewReader(a)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, unreadable(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, t); err != nil {
			return nil, err
		}
	}
	if err := a.drain(); err != nil {
		return nil, unreadable(err)
	}
	return u, u.whole()
}

// unreadable says of an error in reading whose it is.
func unreadable(err error) error {
	var known *step.Error
	if errors.As(err, &known) {
		return err
	}
	return step.Errorf(step.KindInvalid, "the archive cannot be read: %w", err)
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	if err := u.count(1); err != nil {
		return err
	}
	name, err := entryName(h)
	if err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") || strings.HasPrefix(key, "LIBARCHIVE.xattr.") {
			u.left.Attributes++
			break
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		err = u.file(name, h, data)
	case tar.TypeDir:
		err = u.folder(name, u.mode(h, 0o005))
	case tar.TypeSymlink:
		err = u.link(name, h.Linkname)
	case tar.TypeLink:
		err = u.hardLink(name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		u.left.Devices++
	default:
		return step.Errorf(step.KindInvalid, "%.200q: an entry of type %q is neither file, folder, link nor device", h.Name, h.Typeflag)
	}
	return blame(h.Name, err)
}

// blame tells errors of this host from what is wrong with an entry.
func blame(name string, err error) error {
	var known *step.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	for _, ours := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, ours) {
			return step.Errorf(step.KindUnavailable, "%.200q: %w", name, err)
		}
	}
	return step.Errorf(step.KindInvalid, "%.200q: %w", name, err)
}

// count notes entries, those that were not named but had to be made too.
func (u *unpacker) count(n int) error {
	if u.entries += n; u.entries > u.limits.Entries {
		return step.Errorf(step.KindTooLarge, "the archive has more than %d entries", u.limits.Entries)
	}
	return nil
}

// mode is what is kept of an entry's; need is what a step needs to use it.
func (u *unpacker) mode(h *tar.Header, need int64) os.FileMode {
	if h.Mode&0o7000 != 0 {
		u.left.SetID++
	}
	if h.Mode&need != need {
		u.left.Closed++
	}
	return os.FileMode(h.Mode & rights)
}

func (u *unpacker) file(name string, h *tar.Header, data io.Reader) error {
	if h.Size < 0 || h.Size > u.limits.Size-u.bytes {
		return step.Errorf(step.KindTooLarge, "%.200q: the files are larger than %d bytes together (--max-size)", h.Name, u.limits.Size)
	}
	mode := u.mode(h, 0o004)
	if err := u.clear(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, data)
	u.bytes += n
	if err == nil {
		err = f.Chmod(mode)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		var onDisk *fs.PathError // else the stream broke off
		if errors.As(err, &onDisk) {
			return err
		}
		return unreadable(err)
	}
	return u.stamp(name, h.ModTime)
}

// stamp gives a file its time, which some programs compare; one that makes no
// sense is not worth an error.
func (u *unpacker) stamp(name string, t time.Time) error {
	if t.Unix() < 0 || t.Unix() > 1<<32 {
		return nil
	}
	return u.root.Chtimes(name, t, t)
}

// folder makes a folder, or gives one that is there its mode.
func (u *unpacker) folder(name string, mode os.FileMode) error {
	if name == "." {
		return nil
	}
	if st, err := u.root.Lstat(name); err != nil || !st.IsDir() {
		if err := u.clear(name); err != nil {
			return err
		}
		if err := u.root.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	return u.root.Chmod(name, mode)
}

// link makes a symbolic link as it stands: it is followed in sandboxes only,
// whose root the tree is.
func (u *unpacker) link(name, target string) error {
	if target == "" || len(target) > maxName || strings.ContainsRune(target, 0) {
		return errors.New("the link's target is no path")
	}
	if err := u.clear(name); err != nil {
		return err
	}
	return u.root.Symlink(target, name)
}

// hardLink gives a file of the tree a second name.
func (u *unpacker) hardLink(name string, h *tar.Header) error {
	old, err := entryName(&tar.Header{Name: h.Linkname, Typeflag: tar.TypeReg})
	if err != nil {
		return err
	}
	st, err := u.root.Lstat(old)
	if err != nil {
		return fmt.Errorf("a link to %.200q: %w", old, err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("a link to %.200q, which is no file", old)
	}
	if old == name {
		return nil
	}
	if err := u.clear(name); err != nil {
		return err
	}
	return u.root.Link(old, name)
}

// clear makes room for an entry: what an earlier one of that name made goes,
// a folder only if it is empty; missing folders above it are made.
func (u *unpacker) clear(name string) error {
	if dir := path.Dir(name); dir != "." {
		if err := u.parents(dir); err != nil {
			return err
		}
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u *unpacker) parents(dir string) error {
	st, err := u.root.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return fmt.Errorf("%.200q is no folder", dir)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if up := path.Dir(dir); up != "." {
		if err := u.parents(up); err != nil {
			return err
		}
	}
	if err := u.count(1); err != nil {
		return err
	}
	if err := u.root.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return u.root.Chmod(dir, rights)
}

// whole refuses what is a tar archive, but of no root file system.
func (u *unpacker) whole() error {
	for _, of := range []string{"manifest.json", "oci-layout"} {
		if _, err := u.root.Lstat(of); err == nil {
			if _, err := u.root.Lstat("usr"); err != nil {
				return step.Errorf(step.KindInvalid, "the archive holds an image's layers (%s), not a root file system; type: docker export CONTAINER, not docker save", of)
			}
		}
	}
	if u.bytes == 0 {
		return step.Errorf(step.KindInvalid, "the archive holds no file with anything in it")
	}
	return nil
}

// entryName checks a name and gives it without what means nothing in it.
func entryName(h *tar.Header) (string, error) {
	refuse := func(why string) (string, error) {
		return "", step.Errorf(step.KindInvalid, "the archive's name %.200q %s", h.Name, why)
	}
	switch {
	case h.Name == "" || len(h.Name) > maxName:
		return refuse("is empty or too long")
	case strings.ContainsRune(h.Name, 0):
		return refuse("has a NUL byte")
	case path.IsAbs(h.Name):
		return refuse("is absolute")
	case strings.Count(h.Name, "/") > maxDepth:
		return refuse(fmt.Sprintf("is more than %d folders deep", maxDepth))
	}
	for part := range strings.SplitSeq(h.Name, "/") {
		if part == ".." {
			return refuse("leaves its folder")
		}
		if len(part) > maxPart {
			return refuse(fmt.Sprintf("has a part of more than %d bytes", maxPart))
		}
	}
	name := path.Clean(h.Name)
	if name == "." && h.Typeflag != tar.TypeDir {
		return refuse("names the folder itself")
	}
	return name, nil
}
