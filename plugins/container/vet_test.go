package container

import (
	"archive/tar"
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/sdk/step"
)

// imageOf gives the engine an image that has these entries and nothing else.
func imageOf(t *testing.T, repo, volume string, entries ...tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	changes := ""
	if volume != "" {
		changes = "&changes=" + url.QueryEscape("VOLUME "+volume)
	}
	if err := docker.Do(t.Context(), http.MethodPost, "/images/create?fromSrc=-&repo="+url.QueryEscape(repo)+"&tag=1"+changes, &buf, nil); err != nil {
		t.Fatal(err)
	}
	removeImage(t, repo+":1")
	return repo + ":1"
}

func linkAt(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func fileAt(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

// Whatever is wrong with an image is the step's own: it is invalid, which no breaker
// counts, and the driver goes on.
func TestImagesThatCannotBeRun(t *testing.T) {
	t.Parallel()
	d := configured(t)
	for name, c := range map[string]struct {
		volume string
		entry  tar.Header
		runs   bool // a sandbox comes of it
	}{
		"nothing-of-use":      {entry: fileAt("x"), runs: true},
		"volume-proc":         {volume: "/proc"},
		"volume-below-proc":   {volume: "/proc/sys"},
		"volume-dev":          {volume: "/dev"},
		"volume-root":         {volume: "/"},
		"volume-share":        {volume: contained.SharePath},
		"volume-below-share":  {volume: contained.SharePath + "/x"},
		"volume-file":         {volume: "/x", entry: fileAt("x")},
		"volume-below-file":   {volume: "/x/y", entry: fileAt("x")},
		"volume-hosts":        {volume: "/etc/hosts"},
		"volume-missing":      {volume: "/some/where", runs: true},
		"file-for-workspace":  {entry: fileAt("workspace")},
		"link-for-workspace":  {entry: linkAt("workspace", "/tmp")},
		"loop-for-workspace":  {entry: linkAt("workspace", "/workspace")},
		"root-for-workspace":  {entry: linkAt("workspace", "/")},
		"empty-for-workspace": {entry: tar.Header{Name: "workspace/", Typeflag: tar.TypeDir}, runs: true},
		"file-for-tmp":        {entry: fileAt("tmp")},
		"proc-for-tmp":        {entry: linkAt("tmp", "/proc")},
		"file-for-home":       {entry: fileAt("home")},
		"file-for-share":      {entry: fileAt(contained.SharePath[1:])},
		"link-for-share":      {entry: linkAt(contained.SharePath[1:], "/etc/passwd")},
		"folder-for-share":    {entry: tar.Header{Name: contained.SharePath[1:] + "/", Typeflag: tar.TypeDir}},
		"link-to-passwd":      {entry: linkAt("etc/passwd", "../lib/nowhere"), runs: true},
		"link-to-no-file":     {entry: linkAt("etc/passwd", "../proc")},
		"fifo-for-group":      {entry: tar.Header{Name: "etc/group", Typeflag: tar.TypeFifo}},
		"folder-for-passwd":   {entry: tar.Header{Name: "etc/passwd/", Typeflag: tar.TypeDir}},
		"fifo-for-passwd":     {entry: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeFifo}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.entry.Name == "" {
				c.entry = fileAt("y")
			}
			image := imageOf(t, "nofx-test/"+name, c.volume, c.entry)
			began := time.Now()
			h, err := d.Create(t.Context(), newSpec(t, on(image)))
			if (err == nil) != c.runs || err != nil && !step.Is(err, step.KindInvalid) {
				t.Errorf("%q after %v: %v", step.KindOf(err), time.Since(began), err)
			}
			if err == nil {
				err = d.Destroy(t.Context(), h)
			}
			if err != nil && c.runs {
				t.Error(err)
			}
		})
	}
}

// impostor is a program that leaves a word in the workspace, wherever that is.
func impostor(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "impostor.c"), filepath.Join(dir, "impostor")
	text := `#include <fcntl.h>
int main(void) { open("/workspace/proof", O_CREAT, 0600); open("` + contained.SharePath + `/proof", O_CREAT, 0600); return 7; }
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cc", "-static", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// PID 1 is root in all but its capabilities. A step may not bring another program in
// its place: with a link in the image the workspace, in which steps leave what they
// like, would be mounted where PID 1 is looked for.
func TestNobodyElseIsPIDOne(t *testing.T) {
	t.Parallel()
	program := impostor(t)
	for name, link := range map[string]tar.Header{
		"workspace-is-share": linkAt("workspace", contained.SharePath),
		"share-is-workspace": linkAt(contained.SharePath[1:], "/workspace"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := configured(t)
			image := imageOf(t, "nofx-test/"+name, "", link)
			for range 4 { // which of two mounts comes first is nobody's choice
				const owner = 61234
				workspace := filepath.Join(t.TempDir(), "workspace")
				if err := errors.Join(os.Mkdir(workspace, 0o755), os.WriteFile(filepath.Join(workspace, contained.InitName), program, 0o755),
					os.Chown(workspace, owner, owner), os.Chmod(workspace, 0o777)); err != nil {
					t.Fatal(err)
				}
				spec := newSpec(t, on(image))
				spec.Host.Workspace, spec.Host.WorkspaceUID = workspace, owner
				h, err := d.Create(t.Context(), spec)
				if !step.Is(err, step.KindInvalid) {
					t.Errorf("%v", err)
				}
				if err == nil {
					_ = d.Destroy(t.Context(), h)
				}
				if _, err := os.Stat(filepath.Join(workspace, "proof")); err == nil {
					t.Fatal("a program of the step's ran as PID 1")
				}
			}
		})
	}
}

// An image is looked into once, and nothing is left of that.
func TestVetLeavesNothing(t *testing.T) {
	t.Parallel()
	d := configured(t)
	newBox(t, d)
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	all, err := set.engine.list(t.Context(), labelState, set.config.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if strings.HasPrefix(c.box, boxOfLook) {
			t.Errorf("%s is left", c.box)
		}
	}
	if id, err := set.engine.image(t.Context(), set.config.Image); err != nil || !d.vetted.has(id) {
		t.Errorf("the image is not known as looked at, %v", err)
	}
}

// What an image wants to have in the environment of its programs does not reach PID 1,
// which is not one of them.
func TestEnvironmentOfTheImage(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.Pull = PullMissing })
	r := newRegistry(t, t.Name())
	r.configure(t, `"Env":["GLIBC_TUNABLES=glibc.malloc.check=3","PATH=/evil","BIG=`+strings.Repeat("x", 200_000)+`"]`)
	image := r.name("team/env") + ":1"
	removeImage(t, image)
	_, spec := newBox(t, d, on(image))
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	st, err := set.engine.inspect(t.Context(), name(spec.ID))
	if err != nil {
		t.Fatal(err)
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(st.pid), "environ"))
	if err != nil || bytes.Contains(environ, []byte("GLIBC")) || bytes.Contains(environ, []byte("evil")) || bytes.Contains(environ, []byte("BIG")) {
		t.Errorf("PID 1 has %.300q, %v", environ, err)
	}
}
