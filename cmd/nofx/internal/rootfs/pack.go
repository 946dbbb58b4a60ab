package rootfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"

	"github.com/nofx-run/nofx/sdk/step"
)

// ImportFolder makes a tree from a folder, of which it takes copies only, and
// nothing that is mounted below.
func (s *Store) ImportFolder(ctx context.Context, name, folder string, limits Limits) (_ Image, err error) {
	real, err := filepath.EvalSymlinks(folder)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return Image{}, step.Errorf(step.KindInvalid, "%w", err)
	}
	if rel, err := filepath.Rel(real, s.dir); err != nil || rel == "." || filepath.IsLocal(rel) {
		return Image{}, step.Errorf(step.KindInvalid, "%s holds the store %s itself", real, s.dir)
	}
	lock, err := s.begin(name)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return s.copy(ctx, name, real, real, limits)
}

// copy makes a tree from a folder by way of an archive, so that the two have
// nothing in common and the rules of an archive hold.
func (s *Store) copy(ctx context.Context, name, folder, source string, limits Limits) (Image, error) {
	packing, stop := context.WithCancel(ctx)
	tar := exec.CommandContext(packing, "tar", "--create", "--file=-", "--directory="+folder, "--one-file-system", "--numeric-owner", "--sort=name", ".")
	out, in := io.Pipe()
	complaint := &tail{}
	tar.Env, tar.Stdout, tar.Stderr = []string{"PATH=" + searchPath, "LC_ALL=C"}, in, complaint
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := tar.Run()
		if err != nil {
			err = step.Errorf(step.KindInvalid, "tar: %w: %s", err, complaint)
		}
		_ = in.CloseWithError(err) // never fails
	}()
	i, err := s.unpack(ctx, name, Source{out, source}, limits)
	stop()
	_ = out.Close() // never fails
	<-done
	return i, err
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tail keeps the end of what a program says.
type tail struct{ b []byte }

const maxTail = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if extra := len(t.b) - maxTail; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }
