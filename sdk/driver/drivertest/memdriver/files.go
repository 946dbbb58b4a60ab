package memdriver

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"
)

var (
	errNoSpace = errors.New("no space left on device")
	errLoop    = errors.New("too many levels of symbolic links")
	errNotDir  = errors.New("not a directory")
)

// maxNameLength is the longest name of one file, in bytes.
const maxNameLength = 255

// files is a sandbox's file system.
type files struct {
	mu    sync.Mutex
	root  *node
	limit int64 // bytes, 0 = none
	used  int64
}

// node is a file, a folder or a symbolic link.
type node struct {
	mode   fs.FileMode
	data   []byte
	target string // of a link
	kids   map[string]*node
}

func newDir() *node { return &node{mode: fs.ModeDir | 0o755, kids: map[string]*node{}} }

func newFiles(limit int64) *files {
	f := &files{root: newDir(), limit: limit}
	for _, dir := range []string{"workspace", "tmp", "home", "bin"} {
		f.root.kids[dir] = newDir()
	}
	f.root.kids["home"].kids["step"] = newDir()
	return f
}

// place is where a path leads: the folder that holds it, its name there, and
// its node if it exists; canonical is the path without links.
type place struct {
	parent    *node
	name      string
	node      *node
	canonical string
}

// walk resolves an absolute path inside the sandbox: ".." stops at its root.
// follow says whether a link at the end is followed.
func (f *files) walk(name string, follow bool) (place, error) {
	return f.walkFrom(name, follow, 0)
}

func (f *files) walkFrom(name string, follow bool, depth int) (place, error) {
	if depth > 40 {
		return place{}, errLoop
	}
	at := place{node: f.root, canonical: "/"}
	parts := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	if parts[0] == "" {
		return at, nil
	}
	for i, part := range parts {
		switch {
		case at.node == nil:
			return place{}, fs.ErrNotExist
		case at.node.kids == nil:
			return place{}, errNotDir
		case len(part) > maxNameLength:
			return place{}, errors.New("file name too long")
		}
		dir := at
		at = place{parent: dir.node, name: part, node: dir.node.kids[part], canonical: path.Join(dir.canonical, part)}
		if at.node != nil && at.node.mode&fs.ModeSymlink != 0 && (i < len(parts)-1 || follow) {
			target := at.node.target
			if !path.IsAbs(target) {
				target = dir.canonical + "/" + target
			}
			var err error
			if at, err = f.walkFrom(target, true, depth+1); err != nil {
				return place{}, err
			}
		}
	}
	return at, nil
}

func (f *files) isDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.walk(name, true)
	switch {
	case err != nil:
		return err
	case at.node == nil:
		return fs.ErrNotExist
	case at.node.kids == nil:
		return errNotDir
	}
	return nil
}

func (f *files) read(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.walk(name, true)
	switch {
	case err != nil:
		return nil, err
	case at.node == nil:
		return nil, fs.ErrNotExist
	case at.node.kids != nil:
		return nil, errors.New("is a directory")
	}
	return append([]byte(nil), at.node.data...), nil
}

func (f *files) write(name string, data []byte, perm fs.FileMode, appends bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.walk(name, true)
	switch {
	case err != nil:
		return err
	case at.parent == nil || at.node != nil && at.node.kids != nil:
		return errors.New("is a directory")
	}
	size := int64(len(data))
	if at.node != nil && !appends {
		size -= int64(len(at.node.data))
	}
	if f.limit > 0 && f.used+size > f.limit {
		return errNoSpace
	}
	f.used += size
	if at.node == nil {
		at.node = &node{mode: perm.Perm()}
		at.parent.kids[at.name] = at.node
	}
	if !appends {
		at.node.data = nil
	}
	at.node.data = append(at.node.data, data...)
	return nil
}

func (f *files) remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.walk(name, false)
	switch {
	case err != nil:
		return err
	case at.parent == nil:
		return errors.New("is the root")
	case at.node == nil:
		return fs.ErrNotExist
	}
	f.used -= at.node.size()
	delete(at.parent.kids, at.name)
	return nil
}

// size is the bytes of all files at and below n.
func (n *node) size() int64 {
	total := int64(len(n.data))
	for _, kid := range n.kids {
		total += kid.size()
	}
	return total
}
