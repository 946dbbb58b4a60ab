package suite

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func fileCases() []testCase {
	return []testCase{
		{"FilesRoundTrip", filesRoundTrip},
		{"FilesAreVisible", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			fx.copyIn(t, h, "/workspace", file("in/data.txt", "copied in"))
			if r := fx.run(t, h, fx.exec(fx.Programs.Read("/workspace/in/data.txt"))); string(r.stdout) != "copied in" {
				t.Errorf("the step reads %q (%q)", r.stdout, r.stderr)
			}
		}},
		{"CopyInReplaces", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			fx.copyIn(t, h, "/workspace", file("a", "a long first content"))
			fx.copyIn(t, h, "/workspace", file("a", "short"))
			if got := fx.readFile(t, h, "/workspace/a"); string(got) != "short" {
				t.Errorf("a replaced file holds %q", got)
			}
		}},
		{"CopyInRefusesEscapes", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			canary := filepath.Join(fx.OutsideDir, "canary-"+random())
			dev := func(typ byte) *tar.Header {
				return &tar.Header{Name: "dev", Typeflag: typ, Mode: 0o644, Devmajor: 1, Devminor: 3}
			}
			for what, e := range map[string]tarEntry{
				"a name with ..":       file("../"+filepath.Base(canary), "x"),
				"a name with .. in it": file("a/b/../../../../"+filepath.Base(canary), "x"),
				"an absolute name":     file(canary, "x"),
				"a character device":   {h: dev(tar.TypeChar)},
				"a block device":       {h: dev(tar.TypeBlock)},
				"a fifo":               {h: dev(tar.TypeFifo)},
				"a hard link":          {h: &tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "/etc/passwd", Mode: 0o644}},
			} {
				err := fx.d.CopyIn(fx.ctx(t), h, "/workspace", bytes.NewReader(tarOf(t, e)))
				wantKind(t, "copy in of "+what, err, step.KindInvalid)
			}
			if _, err := os.Lstat(canary); err == nil {
				t.Error("a file got out of the sandbox")
			}
			fx.copyIn(t, h, "/workspace", file("after", "still works"))
		}},
		{"CopyInRefusesNonsense", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			ok := tarOf(t, file("big", strings.Repeat("x", 200_000)))
			wantKind(t, "copy in of noise", fx.d.CopyIn(fx.ctx(t), h, "/workspace", bytes.NewReader(FloodBytes(5000))), step.KindInvalid)
			wantKind(t, "copy in of half an archive", fx.d.CopyIn(fx.ctx(t), h, "/workspace", bytes.NewReader(ok[:100_000])), step.KindInvalid)
			wantKind(t, "copy in to a relative folder", fx.d.CopyIn(fx.ctx(t), h, "workspace", bytes.NewReader(ok)), step.KindInvalid)
			broken := errors.New("the source broke")
			err := fx.d.CopyIn(fx.ctx(t), h, "/workspace", io.MultiReader(bytes.NewReader(ok[:50_000]), failingReader{broken}))
			if !errors.Is(err, broken) {
				t.Errorf("copy in from a source that breaks: %v", err)
			}
		}},
		{"CopyInStaysInTheSandbox", copyInStaysInTheSandbox},
		{"CopyOutRefuses", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			fx.copyIn(t, h, "/workspace", file("d/big", strings.Repeat("x", 100_000)), file("d/small", "y"))
			var buf bytes.Buffer
			wantKind(t, "copy out past the limit", fx.d.CopyOut(fx.ctx(t), h, "/workspace/d", 50_000, &buf), step.KindTooLarge)
			if buf.Len() > 50_000+64<<10 {
				t.Errorf("copy out sent %d bytes before it refused", buf.Len())
			}
			wantKind(t, "copy out of nothing", fx.d.CopyOut(fx.ctx(t), h, "/workspace/no-such-file", 0, io.Discard), step.KindNotFound)
			wantKind(t, "copy out of a relative path", fx.d.CopyOut(fx.ctx(t), h, "workspace/d", 0, io.Discard), step.KindInvalid)
			if err := fx.d.CopyOut(fx.ctx(t), h, "/workspace/d", 200_000, io.Discard); err != nil {
				t.Errorf("copy out within the limit: %v", err)
			}
			full := errors.New("the target is full")
			if err := fx.d.CopyOut(fx.ctx(t), h, "/workspace/d", 0, failingWriter{full}); !errors.Is(err, full) {
				t.Errorf("copy out to a target that fails: %v", err)
			}
		}},
		{"CopyOutStaysInTheSandbox", func(t T, fx *fixture) {
			h := fx.needFiles(t)
			secret := "secret-" + random()
			name := filepath.Join(fx.OutsideDir, secret)
			if err := os.WriteFile(name, []byte(secret), 0o644); err != nil {
				t.Fatal(err)
			}
			fx.copyIn(t, h, "/workspace", link("direct", name), link("folder", fx.OutsideDir),
				link("up", strings.Repeat("../", 30)+strings.TrimPrefix(name, "/")), link("proc", "/proc/1/root"+name))
			for _, p := range []string{"direct", "folder", "folder/" + secret, "up", "proc", ""} {
				var buf bytes.Buffer
				_ = fx.d.CopyOut(fx.ctx(t), h, path.Join("/workspace", p), 0, &buf) // an error is as good as a link
				for _, e := range untar(t, buf.Bytes()) {
					if bytes.Contains(e.data, []byte(secret)) {
						t.Errorf("copy out of /workspace/%s gives a file from outside", p)
					}
				}
			}
		}},
	}
}

// needFiles makes a sandbox, or skips the case.
func (fx *fixture) needFiles(t T) driver.Handle {
	t.Helper()
	h := fx.create(t)
	fx.need(t, driver.CapFiles, func() error {
		wantKind(t, "copy out without the capability", fx.d.CopyOut(fx.ctx(t), h, "/workspace", 0, io.Discard), step.KindUnsupported)
		return fx.d.CopyIn(fx.ctx(t), h, "/workspace", bytes.NewReader(tarOf(t, file("a", "b"))))
	})
	return h
}

func (fx *fixture) copyIn(t T, h driver.Handle, dir string, entries ...tarEntry) {
	t.Helper()
	if err := fx.d.CopyIn(fx.ctx(t), h, dir, bytes.NewReader(tarOf(t, entries...))); err != nil {
		t.Fatalf("copy in to %s: %v", dir, err)
	}
}

func filesRoundTrip(t T, fx *fixture) {
	h := fx.needFiles(t)
	long := strings.Repeat("n", 255)
	in := []tarEntry{
		dir("tree"),
		file("tree/plain", "plain"),
		file("tree/empty", ""),
		{h: &tar.Header{Name: "tree/tool", Typeflag: tar.TypeReg, Mode: 0o755}, data: []byte("#!/bin/sh\n")},
		dir("tree/empty-folder"),
		file("tree/"+long, "long name"),
		file("tree/deep/er/and/deeper", "without entries for its folders"),
		file("tree/großé 雪 name", "unicode"),
		file("tree/big", string(FloodBytes(3_000_000))),
		link("tree/relative", "plain"),
		link("tree/dangling", "no/such/target"),
	}
	fx.copyIn(t, h, "/workspace", in...)
	var buf bytes.Buffer
	if err := fx.d.CopyOut(fx.ctx(t), h, "/workspace/tree", 0, &buf); err != nil {
		t.Fatalf("copy out: %v", err)
	}
	got := map[string]tarEntry{}
	for _, e := range untar(t, buf.Bytes()) {
		got[strings.TrimSuffix(e.h.Name, "/")] = e
	}
	for _, want := range in {
		name := strings.TrimSuffix(want.h.Name, "/")
		e, ok := got[name]
		if !ok {
			t.Errorf("%.40q did not come back", name)
			continue
		}
		delete(got, name)
		if e.h.Typeflag != want.h.Typeflag || !bytes.Equal(e.data, want.data) || e.h.Linkname != want.h.Linkname {
			t.Errorf("%.40q came back as type %q, %d bytes, link to %q", name, e.h.Typeflag, len(e.data), e.h.Linkname)
		}
		if want.h.Typeflag == tar.TypeReg && e.h.Mode&0o111 != want.h.Mode&0o111 {
			t.Errorf("%.40q came back with mode %o, was %o", name, e.h.Mode, want.h.Mode)
		}
	}
	for _, parent := range []string{"tree/deep", "tree/deep/er", "tree/deep/er/and"} {
		if got[parent].h == nil || got[parent].h.Typeflag != tar.TypeDir {
			t.Errorf("the folder %s did not come back", parent)
		}
		delete(got, parent)
	}
	if len(got) > 0 {
		t.Errorf("what was never copied in came back: %.500q", slices.Collect(maps.Keys(got)))
	}
	buf.Reset()
	if err := fx.d.CopyOut(fx.ctx(t), h, "/workspace/tree/plain", 0, &buf); err != nil {
		t.Fatalf("copy out of one file: %v", err)
	}
	if one := untar(t, buf.Bytes()); len(one) != 1 || one[0].h.Name != "plain" || string(one[0].data) != "plain" {
		t.Errorf("copy out of one file: %d entries", len(one))
	}
}

// copyInStaysInTheSandbox tries to leave through symbolic links, in one
// archive and planted beforehand.
func copyInStaysInTheSandbox(t T, fx *fixture) {
	h := fx.needFiles(t)
	outside := filepath.Join(fx.OutsideDir, "out-"+random())
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o777); err != nil { // whoever may write: the way out must not fail for want of rights
		t.Fatal(err)
	}
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o666); err != nil {
		t.Fatal(err)
	}
	try := func(dir string, entries ...tarEntry) {
		_ = fx.d.CopyIn(fx.ctx(t), h, dir, bytes.NewReader(tarOf(t, entries...))) // a refusal is as good
	}
	up := strings.Repeat("../", 30) + strings.TrimPrefix(outside, "/")
	try("/workspace", link("a", outside), file("a/planted", "x"))
	try("/workspace", link("b", up), file("b/planted", "x"))
	try("/workspace", link("c", victim), file("c", "x"))
	try("/workspace", link("c2", victim))
	try("/workspace", file("c2", "x"))
	try("/workspace", link("d", outside))
	try("/workspace", file("d/planted", "x"), dir("d/folder"))
	try("/workspace/d", file("planted", "x"))
	try("/workspace/d/deeper", file("planted", "x"))
	try("/workspace", link("e", "/proc/1/root"+outside), file("e/planted", "x"))
	try("/workspace", link("f", "/proc/self/cwd"+up), file("f/planted", "x"))
	names, err := os.ReadDir(outside)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n.Name() != "victim" {
			t.Errorf("copy in left the sandbox: it made %s outside", n.Name())
		}
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "untouched" {
		t.Errorf("copy in left the sandbox: the file outside holds %q (%v)", data, err)
	}
}

// tarEntry is one entry of an archive.
type tarEntry struct {
	h    *tar.Header
	data []byte
}

func file(name, content string) tarEntry {
	return tarEntry{h: &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, data: []byte(content)}
}

func dir(name string) tarEntry {
	return tarEntry{h: &tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}}
}

func link(name, target string) tarEntry {
	return tarEntry{h: &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func tarOf(t T, entries ...tarEntry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := *e.h
		h.Size = int64(len(e.data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// untar reads as much of an archive as there is.
func untar(t T, data []byte) []tarEntry {
	t.Helper()
	var all []tarEntry
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err != nil {
			return all
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return all
		}
		all = append(all, tarEntry{h: h, data: content})
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
