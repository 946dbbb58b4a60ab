package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/step"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), Folder))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// entry is one of an archive; a file has text.
type entry struct {
	tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(text))}, text}
}

func folder(name string) entry {
	return entry{Header: tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Linkname: target, Mode: 0o777, Typeflag: tar.TypeSymlink}}
}

func hard(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}}
}

func (e entry) mode(m int64) entry { e.Mode = m; return e }

func pack(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func squeeze(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (s *Store) take(t *testing.T, name string, data []byte) (Image, error) {
	t.Helper()
	return s.Import(t.Context(), name, Source{bytes.NewReader(data), "test"}, Limits{Size: 1 << 20, Entries: 100})
}

// left are the names in the store's folder.
func (s *Store) names(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if e.Name() != ".lock" {
			all = append(all, e.Name())
		}
	}
	return all
}

func TestImport(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	when := time.Unix(1700000000, 0)
	old := file("usr/bin/tool", "#!/bin/sh\n").mode(0o6777)
	old.ModTime, old.Uid, old.Gid = when, 1000, 1000
	capable := file("usr/bin/ping", "ping")
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.user.x": "y"}
	data := pack(t,
		folder("./"), folder("./usr/").mode(0o1777), folder("./usr/bin/"), old, capable,
		link("bin", "usr/bin"), file("bin/sh", "through the link\n").mode(0o755),
		hard("usr/bin/dash", "./usr/bin/sh"), link("usr/bin/vi", "/etc/alternatives/vi"), link("up", "../../../etc/shadow"),
		file("etc/shadow", "closed").mode(0o640),
		file("deep/er/file", "no folder was named"), file("twice", "first"), file("twice", "second"),
		entry{Header: tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}},
		entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		entry{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o666}},
	)
	for _, c := range []struct {
		name string
		data []byte
	}{{"plain", data}, {"gz", squeeze(t, data)}} {
		image, err := s.take(t, c.name, c.data)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if want := fmt.Sprintf("%x", sha256.Sum256(c.data)); image.SHA256 != want {
			t.Errorf("%s: sha256 %s, want that of the file: %s", c.name, image.SHA256, want)
		}
		if diff := cmp.Diff(Left{Devices: 3, SetID: 2, Attributes: 1, Closed: 1}, image.Left); diff != "" {
			t.Errorf("%s: left out (-want +got):\n%s", c.name, diff)
		}
	}
	got := map[string]string{}
	tree := filepath.Join(s.dir, "plain")
	err := filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, st := strings.TrimPrefix(path, tree+"/"), info.Sys().(*syscall.Stat_t)
		if st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
		if buf := make([]byte, 256); d.Type()&os.ModeSymlink == 0 {
			if n, _ := syscall.Listxattr(path, buf); n > 0 {
				t.Errorf("%s has attributes: %q", name, buf[:n])
			}
		}
		got[name] = info.Mode().String()
		if d.Type()&os.ModeSymlink != 0 {
			got[name], err = os.Readlink(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr": "drwxr-xr-x", "usr/bin": "drwxr-xr-x", "usr/bin/tool": "-rwxr-xr-x", "usr/bin/ping": "-rw-r--r--", "bin": "usr/bin", "usr/bin/sh": "-rwxr-xr-x",
		"usr/bin/dash": "-rwxr-xr-x", "usr/bin/vi": "/etc/alternatives/vi", "up": "../../../etc/shadow", "etc": "drwxr-xr-x", "etc/shadow": "-rw-r-----",
		"deep": "drwxr-xr-x", "deep/er": "drwxr-xr-x", "deep/er/file": "-rw-r--r--", "twice": "-rw-r--r--",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
	if text, err := os.ReadFile(filepath.Join(tree, "twice")); err != nil || string(text) != "second" {
		t.Errorf("twice: %q, %v", text, err)
	}
	if info, err := os.Stat(filepath.Join(tree, "usr/bin/tool")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("its time: %v, %v", info.ModTime(), err)
	}
	if info, err := os.Stat(tree); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the tree itself: %v, %v", info.Mode(), err)
	}
}

// What is hostile, broken or no root file system gets an error that says what
// is wrong, and leaves nothing, neither here nor outside.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(outside, []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := file("bin/sh", "sh")
	long := strings.Repeat("d/", maxDepth+2) + "f"
	many := []entry{good}
	for i := range 200 {
		many = append(many, file(fmt.Sprint("f", i), "x"))
	}
	broad := []entry{good} // few names, many folders
	for i := range 10 {
		broad = append(broad, file(fmt.Sprint(i, "/a/b/c/d/e/f/g/h/i/j"), "x"))
	}
	whole := pack(t, good, file("large", strings.Repeat("x", 100_000)))
	for what, c := range map[string]struct {
		data []byte
		kind step.Kind
		says string
	}{
		"absolute":               {pack(t, good, file("/etc/cron.d/x", "x")), step.KindInvalid, `"/etc/cron.d/x" is absolute`},
		"up":                     {pack(t, good, file("../x", "x")), step.KindInvalid, "leaves its folder"},
		"up in the middle":       {pack(t, good, file("a/../../x", "x")), step.KindInvalid, "leaves its folder"},
		"the folder itself":      {pack(t, good, file("./.", "x")), step.KindInvalid, "names the folder itself"},
		"a long part":            {pack(t, good, file(strings.Repeat("n", 256), "x")), step.KindInvalid, "255 bytes"},
		"deep":                   {pack(t, good, file(long, "x")), step.KindInvalid, "folders deep"},
		"through an outer link":  {pack(t, good, link("out", filepath.Dir(outside)), file("out/canary", "x")), step.KindInvalid, "escapes"},
		"through a climbing one": {pack(t, good, link("out", "../../.."), file("out/x", "x")), step.KindInvalid, "escapes"},
		"folder through a link":  {pack(t, good, link("out", filepath.Dir(outside)), folder("out/d/")), step.KindInvalid, "escapes"},
		"link through a link":    {pack(t, good, link("out", filepath.Dir(outside)), link("out/l", "x")), step.KindInvalid, "escapes"},
		"a link around itself":   {pack(t, good, link("a", "b"), link("b", "a"), file("a/x", "x")), step.KindInvalid, `"a/x"`},
		"hard link out":          {pack(t, good, hard("h", outside)), step.KindInvalid, "is absolute"},
		"hard link up":           {pack(t, good, hard("h", "../.."+outside)), step.KindInvalid, "leaves its folder"},
		"hard link by a link":    {pack(t, good, link("out", filepath.Dir(outside)), hard("h", "out/canary")), step.KindInvalid, "escapes"},
		"hard link to a link":    {pack(t, good, link("out", outside), hard("h", "out")), step.KindInvalid, "which is no file"},
		"hard link to nothing":   {pack(t, good, hard("h", "gone")), step.KindInvalid, "no such file"},
		"hard link to a folder":  {pack(t, good, folder("d/"), hard("h", "d")), step.KindInvalid, "which is no file"},
		"file over a folder":     {pack(t, good, file("bin", "x")), step.KindInvalid, "not empty"},
		"below a file":           {pack(t, good, file("bin/sh/x", "x")), step.KindInvalid, `"bin/sh`},
		"an unknown kind":        {pack(t, good, entry{Header: tar.Header{Name: "v", Typeflag: 'V'}}), step.KindInvalid, "type 'V'"},
		"too many":               {pack(t, many...), step.KindTooLarge, "100 entries"},
		"too many folders":       {pack(t, broad...), step.KindTooLarge, "100 entries"},
		"too large":              {pack(t, good, file("f", strings.Repeat("x", 1<<20))), step.KindTooLarge, "--max-size"},
		"a bomb":                 {squeeze(t, pack(t, good, file("f", strings.Repeat("\x00", 50<<20)))), step.KindTooLarge, "--max-size"},
		"a bomb behind the end":  {squeeze(t, append(pack(t, good), make([]byte, 50<<20)...)), step.KindTooLarge, "--max-size"},
		"a sparse bomb":          {sparse(t, 1<<40), step.KindTooLarge, "--max-size"},
		"broken off":             {whole[:50_000], step.KindInvalid, "cannot be read"},
		"broken off, packed":     {squeeze(t, whole)[:100], step.KindInvalid, "cannot be read"},
		"no archive":             {[]byte(strings.Repeat("not a tar", 1000)), step.KindInvalid, "cannot be read"},
		"nothing":                {nil, step.KindInvalid, "holds no file"},
		"no file":                {pack(t, folder("usr/"), link("x", "y")), step.KindInvalid, "holds no file"},
		"docker save":            {pack(t, file("manifest.json", "[]"), file("blobs/sha256/x", "x")), step.KindInvalid, "docker export"},
		"zstd":                   {[]byte("\x28\xb5\x2f\xfd\x04\x00"), step.KindUnsupported, "zstd -dc"},
		"xz":                     {[]byte("\xfd7zXZ\x00\x00"), step.KindUnsupported, "xz -dc"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			_, err := s.take(t, "x", c.data)
			if !step.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s with %q", err, c.kind, c.says)
			}
			if left := s.names(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			// The same store takes what is right.
			if _, err := s.take(t, "x", pack(t, good)); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(outside); err != nil || string(text) != "canary" {
			t.Errorf("the canary: %q, %v", text, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(entries) != 1 {
			t.Errorf("outside: %v, %v", entries, err)
		}
	})
}

// sparse is an archive of one file that says it is size bytes, mostly holes.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "--create", "--sparse", "--directory="+dir, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An end from outside leaves nothing, though the source never ends.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, stop := cancelled(t)
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(pack(t, file("bin/sh", strings.Repeat("x", 10_000)))[:5000])
		stop()
	}()
	_, err := s.Import(ctx, "x", Source{r, "test"}, DefaultLimits())
	if !errors.Is(err, errStop) {
		t.Errorf("%v", err)
	}
	if left := s.names(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	_ = w.Close()
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	good := pack(t, file("bin/sh", "sh"))
	for _, bad := range []string{"", ".", "..", "a/b", "/a", ".new-x", "-x", "A", "a b", strings.Repeat("a", 64), "a\n"} {
		if _, err := s.take(t, bad, good); !step.Is(err, step.KindInvalid) {
			t.Errorf("import %q: %v", bad, err)
		}
		if err := s.Remove(bad); !step.Is(err, step.KindInvalid) {
			t.Errorf("rm %q: %v", bad, err)
		}
	}
	if _, err := s.take(t, "a", good); err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t, "a", good); !step.Is(err, step.KindConflict) {
		t.Errorf("a second time: %v", err)
	}
	if err := s.Remove("b"); !step.Is(err, step.KindNotFound) {
		t.Errorf("rm of what is not there: %v", err)
	}
}

// A tree whose name begins like those of folders that are not trees yet keeps its
// record.
func TestRecordStays(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	good := pack(t, file("bin/sh", "sh"))
	first, err := s.take(t, "new-debian", good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t, "other", good); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].SHA256 != first.SHA256 || all[0].Source != first.Source || !all[0].Created.Equal(first.Created) {
		t.Errorf("%+v, %v; want %+v", all, err, first)
	}
}

// Two at once do not mix, and what a killed one left goes with the next.
func TestLock(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := os.MkdirAll(filepath.Join(s.dir, scratch+"dead/x/usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	if left := s.names(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.take(t, "a", pack(t, file("bin/sh", "sh"))); !step.Is(err, step.KindConflict) {
		t.Errorf("while another is at work: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t, "a", pack(t, file("bin/sh", "sh"))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestOpenRefusesWhatOthersCanChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("%v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err != nil {
		t.Errorf("closed: %v", err)
	}
}

// A folder is copied: the tree has no inode of it.
func TestImportFolder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	from := t.TempDir()
	busybox, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	untar := exec.Command("tar", "--extract", "--directory="+from)
	untar.Stdin = bytes.NewReader(busybox)
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := s.ImportFolder(t.Context(), "busybox", from, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if image.Entries < 100 || image.Source != from {
		t.Errorf("%+v", image)
	}
	a, err := os.Stat(filepath.Join(from, "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(image.Path, "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(a, b) || a.Size() != b.Size() {
		t.Errorf("%+v and %+v", a, b)
	}
	if _, err := s.ImportFolder(t.Context(), "self", filepath.Dir(s.dir), DefaultLimits()); !step.Is(err, step.KindInvalid) {
		t.Errorf("a folder that the store is in: %v", err)
	}
	if _, err := s.ImportFolder(t.Context(), "gone", filepath.Join(from, "gone"), DefaultLimits()); !step.Is(err, step.KindInvalid) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := s.ImportFolder(t.Context(), "small", from, Limits{Size: 1000, Entries: 1000}); !step.Is(err, step.KindTooLarge) {
		t.Errorf("a limit: %v", err)
	}
}
