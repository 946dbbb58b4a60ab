package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/daemon/internal/snapshot"
)

const (
	uid  = 1_880_000_123
	room = 1 << 30
)

// chain is a workspace and the layers that it was saved as.
type chain struct {
	dir    string
	index  *snapshot.Index
	layers [][]byte
}

// save takes a snapshot and reports whether there was something to save.
func (c *chain) save(ctx context.Context, limit int64) (taken snapshot.Taken, err error) {
	var b bytes.Buffer
	taken, err = snapshot.Take(ctx, c.dir, c.index, true, limit, &b)
	if err != nil {
		return taken, err
	}
	if !taken.Changed {
		if b.Len() > 0 {
			return taken, fmt.Errorf("%d bytes of no change", b.Len())
		}
		c.index, err = reread(taken.Index)
		return taken, err
	}
	seq := 1
	if c.index != nil {
		seq = c.index.Seq + 1
	}
	taken.Index.Added(seq, taken.Full, int64(b.Len()))
	if taken.Full {
		c.layers = nil
	}
	c.layers = append(c.layers, b.Bytes())
	c.index, err = reread(taken.Index)
	return taken, err
}

// reread is an index that was on the disk meanwhile.
func reread(x *snapshot.Index) (*snapshot.Index, error) {
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		return nil, err
	}
	return snapshot.ReadIndex(&b)
}

// restore puts the layers together in an empty folder.
func (c *chain) restore(ctx context.Context, to string) error {
	r, err := snapshot.Into(to, uid)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, l := range c.layers {
		if err := r.Apply(ctx, bytes.NewReader(l), room); err != nil {
			return err
		}
	}
	return r.Finish()
}

// look lists a tree: kind, mode, time, and content or target of each path.
func look(dir string) (map[string]string, error) {
	out := map[string]string{}
	return out, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, what := strings.TrimPrefix(path, dir), ""
		switch {
		case d.IsDir():
		case d.Type() == fs.ModeSymlink:
			if what, err = os.Readlink(path); err != nil {
				return err
			}
		case d.Type().IsRegular():
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what = string(raw)
		default:
			return nil
		}
		out[rel] = fmt.Sprintf("%s %s %q", info.Mode(), info.ModTime().UTC().Format(time.RFC3339Nano), what)
		return nil
	})
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, c *chain) {
	t.Helper()
	to := t.TempDir()
	must(t, c.restore(t.Context(), to))
	want, err := look(c.dir)
	must(t, err)
	got, err := look(to)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever is done to a tree, its layers make the tree that they were made of.
func TestAnyTree(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c\nd", "\xff\xfe", "..e", "-f", "tree", "gone", strings.Repeat("n", 250)}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "nofx-snapshot-")
		must(t, err)
		defer os.RemoveAll(dir)
		c := &chain{dir: filepath.Join(dir, "work")}
		must(t, os.Mkdir(c.dir, 0o700))
		tree, err := os.OpenRoot(c.dir) // what is written to a link must not reach the host's files
		must(t, err)
		defer tree.Close()
		path := func() string {
			p := ""
			for range rapid.IntRange(1, 3).Draw(rt, "depth") {
				p = filepath.Join(p, rapid.SampledFrom(names).Draw(rt, "name"))
			}
			return p
		}
		for range rapid.IntRange(1, 12).Draw(rt, "snapshots") {
			for range rapid.IntRange(0, 6).Draw(rt, "changes") {
				at := path()
				// What cannot be done is not: the parent may not be there.
				switch rapid.IntRange(0, 9).Draw(rt, "what") {
				case 0, 1, 2:
					_ = tree.WriteFile(at, []byte(rapid.StringN(0, 3, 8).Draw(rt, "content")), 0o644)
				case 3, 4:
					_ = tree.Mkdir(at, 0o755)
				case 5:
					_ = tree.RemoveAll(at)
				case 6:
					_ = tree.Symlink(rapid.SampledFrom([]string{"a", "/nonexistent/nofx", "..", "\xff"}).Draw(rt, "target"), at)
				case 7:
					_ = tree.Rename(at, path())
				case 8:
					if info, err := tree.Lstat(at); err == nil && info.Mode()&fs.ModeSymlink == 0 {
						_ = tree.Chmod(at, fs.FileMode(rapid.SampledFrom([]int{0o600, 0o755, 0o777, 0o000}).Draw(rt, "mode")))
					}
				case 9:
					_ = tree.Link(at, path())
				}
			}
			if _, err := c.save(t.Context(), room); err != nil {
				rt.Fatal(err)
			}
			to, err := os.MkdirTemp(dir, "to-")
			must(t, err)
			if err := c.restore(t.Context(), to); err != nil {
				rt.Fatal(err)
			}
			want, err := look(c.dir)
			must(t, err)
			got, err := look(to)
			must(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatal(diff)
			}
		}
		if taken, err := c.save(t.Context(), room); err != nil || taken.Changed {
			rt.Fatalf("saved what had not changed: %v", err)
		}
	})
}

// What is not a file, a folder or a link is left out, and nothing of a file is
// kept that would give rights.
func TestHostileTree(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("of the host"), 0o600), os.WriteFile(in("plain"), []byte("x"), 0o755))
	must(t, unix.Mkfifo(in("pipe"), 0o666), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: in("socket")}), unix.Close(fd))
	must(t, os.WriteFile(in("setuid"), []byte("#!"), 0o755), os.Chmod(in("setuid"), 0o755|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
	must(t, unix.Setxattr(in("plain"), "user.nofx", []byte("v"), 0))
	must(t, os.Symlink(secret, in("out")), os.Symlink(filepath.Dir(secret), in("outside")))
	must(t, os.WriteFile(in("a\nb"), nil, 0o600), os.WriteFile(in("\xff\x01\xfe"), []byte("bytes"), 0o600))
	must(t, os.WriteFile(in("one"), []byte("linked"), 0o600), os.Link(in("one"), in("two")))
	if taken, err := c.save(t.Context(), room); err != nil || !taken.Full {
		t.Fatal(taken, err)
	}
	if bytes.Contains(c.layers[0], []byte("of the host")) {
		t.Error("a link was followed")
	}
	to := t.TempDir()
	must(t, c.restore(t.Context(), to))
	got, err := look(to)
	must(t, err)
	for _, name := range []string{"/pipe", "/null", "/socket"} {
		if _, err := os.Lstat(filepath.Join(to, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"/plain", "/setuid", "/out", "/outside", "/a\nb", "/\xff\x01\xfe", "/one", "/two"} {
		if got[name] == "" {
			t.Errorf("%q is missing", name)
		}
		info, err := os.Lstat(filepath.Join(to, name))
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != uid || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("%q: %s of %d", name, info.Mode(), st.Uid)
		}
	}
	if n, err := unix.Getxattr(filepath.Join(to, "plain"), "user.nofx", nil); err == nil {
		t.Errorf("an attribute of %d bytes", n)
	}
}

// A tree that is in flux is saved in a form that can be put together, and once it
// is at rest the next layer makes it what it is.
func TestTreeInFlux(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("of the host"), 0o600))
	for i := range 200 {
		must(t, os.MkdirAll(in(fmt.Sprintf("d%d", i%20)), 0o755), os.WriteFile(in(fmt.Sprintf("d%d/f%d", i%20, i)), bytes.Repeat([]byte("x"), 5000), 0o644))
	}
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stop()
	for i := range 3 {
		busy.Go(func() {
			for n := i; ctx.Err() == nil; n++ { // each of these may fail: the others are at it, too
				f, d := in(fmt.Sprintf("d%d/f%d", n%20, n%200)), in(fmt.Sprintf("d%d", n%20))
				switch n % 6 {
				case 0:
					_ = os.Truncate(f, int64(n%9000))
				case 1:
					_ = os.WriteFile(f, bytes.Repeat([]byte("y"), n%20_000), 0o644)
				case 2:
					_ = os.Remove(f)
					_ = os.Symlink(filepath.Join(outside, "f"), f)
				case 3:
					_ = os.Rename(d, d+".aside")
					_ = os.Symlink(outside, d)
					_ = os.Remove(d)
					_ = os.Rename(d+".aside", d)
				case 4:
					_ = os.Remove(f)
					_ = unix.Mkfifo(f, 0o600)
				case 5:
					_ = os.RemoveAll(f)
					_ = os.WriteFile(f, []byte("z"), 0o644)
				}
			}
		})
	}
	for range 20 {
		if _, err := c.save(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		if err := c.restore(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		tree, err := look(to)
		must(t, err)
		for path, what := range tree {
			if strings.HasSuffix(what, `"of the host"`) {
				t.Fatalf("%s was followed", path)
			}
		}
	}
	stop()
	busy.Wait()
	if _, err := c.save(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	same(t, c)
}

// A change right after a file was read shows, though its times may not tell.
func TestChangeWithinATick(t *testing.T) {
	t.Parallel()
	for i := range 50 {
		c := &chain{dir: t.TempDir()}
		name := filepath.Join(c.dir, "f")
		must(t, os.WriteFile(name, []byte("old"), 0o600))
		_, err := c.save(t.Context(), room)
		must(t, err)
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("new")
		must(t, err, f.Close())
		taken, err := c.save(t.Context(), room)
		must(t, err)
		if !taken.Changed {
			t.Fatalf("not seen in round %d", i)
		}
	}
}

// A chain ends by itself: after some layers there is a full one, when there is
// room for it, and never more than a bound.
func TestChainIsBounded(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(c.dir, "big"), make([]byte, 100_000), 0o600))
	for i := range 3 * snapshot.MaxLayers {
		must(t, os.WriteFile(filepath.Join(c.dir, "small"), []byte(fmt.Sprint(i)), 0o600))
		_, err := c.save(t.Context(), room)
		must(t, err)
		if len(c.layers) > 9 {
			t.Fatalf("%d layers", len(c.layers))
		}
	}
	same(t, c)
	for {
		must(t, os.WriteFile(filepath.Join(c.dir, "small"), []byte(fmt.Sprint(len(c.layers))), 0o600))
		_, err := c.save(t.Context(), 1000) // no room for a full one
		if refused := (*snapshot.RefusedError)(nil); errors.As(err, &refused) {
			break
		}
		must(t, err)
		if len(c.layers) > snapshot.MaxLayers {
			t.Fatalf("%d layers", len(c.layers))
		}
	}
	if len(c.layers) != snapshot.MaxLayers {
		t.Errorf("it ended after %d layers", len(c.layers))
	}
}

// What is not a layer makes no tree, and an index that is not as it was written
// is none.
func TestBroken(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(c.dir, "f"), []byte("content"), 0o600))
	_, err := c.save(t.Context(), room)
	must(t, err)
	whole := c.layers[0]
	for name, layer := range map[string][]byte{"none": {}, "not compressed": []byte("text"), "cut off": whole[:len(whole)/2]} {
		r, err := snapshot.Into(t.TempDir(), uid)
		must(t, err)
		if err := r.Apply(t.Context(), bytes.NewReader(layer), room); err == nil {
			t.Errorf("%s: was taken", name)
		}
		must(t, r.Close())
	}
	var b bytes.Buffer
	_, err = c.index.WriteTo(&b)
	must(t, err)
	for i := range b.Len() {
		raw := bytes.Clone(b.Bytes())
		raw[i] ^= 1
		if _, err := snapshot.ReadIndex(bytes.NewReader(raw)); err == nil {
			t.Fatalf("an index with another byte at %d was taken", i)
		}
	}
}

// A file with holes takes no more room where it is put together than where it was.
func TestHolesStayHoles(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	name := filepath.Join(c.dir, "f")
	must(t, os.WriteFile(name, []byte("begin"), 0o600), os.Truncate(name, 50<<20))
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 30<<20+7)
	must(t, err, f.Close())
	_, err = c.save(t.Context(), room)
	must(t, err)
	to := t.TempDir()
	must(t, c.restore(t.Context(), to))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, "f"), &st))
	if took := st.Blocks * 512; took > 1<<20 || st.Size != 50<<20 {
		t.Errorf("%d bytes on the disk of %d", took, st.Size)
	}
	was, err := os.ReadFile(name)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(to, "f")); err != nil || !bytes.Equal(was, got) {
		t.Errorf("another content, %v", err)
	}
}

// What another step of the run has written to a mapped page before and after the
// tree was looked at is in its own layer: the kernel notes only the first time.
func TestMappedFile(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	f, err := os.Create(filepath.Join(c.dir, "f"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(4096))
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer func() { _ = unix.Munmap(page) }()
	copy(page, "old")
	_, err = snapshot.Scan(t.Context(), c.dir) // it waits for a tick of the file system's clock
	must(t, err)
	_, err = c.save(t.Context(), room)
	must(t, err)
	copy(page, "new")
	if taken, err := c.save(t.Context(), room); err != nil || !taken.Changed {
		t.Errorf("not seen: %+v %v", taken, err)
	}
}

func TestRestoredIsAsSaved(t *testing.T) {
	t.Parallel()
	c := &chain{dir: t.TempDir()}
	must(t, os.WriteFile(filepath.Join(c.dir, "f"), []byte("content"), 0o600))
	_, err := c.save(t.Context(), room)
	must(t, err)
	to := t.TempDir()
	must(t, c.restore(t.Context(), to))
	index, err := snapshot.Scan(t.Context(), to)
	must(t, err)
	index.Added(1, true, int64(len(c.layers[0])))
	on := &chain{dir: to, index: index, layers: c.layers}
	if taken, err := on.save(t.Context(), room); err != nil || taken.Changed {
		t.Errorf("%+v, %v", taken, err)
	}
	must(t, os.WriteFile(filepath.Join(to, "f"), []byte("changed"), 0o600))
	if taken, err := on.save(t.Context(), room); err != nil || !taken.Changed {
		t.Errorf("%+v, %v", taken, err)
	}
	same(t, on)
}
