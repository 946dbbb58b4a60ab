package container

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// withVolumes gives the engine an image that declares volumes, each a folder that
// everybody may write to and that has a file in it.
func withVolumes(t *testing.T, name string, paths ...string) string {
	t.Helper()
	root, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w, r := tar.NewWriter(&buf), tar.NewReader(bytes.NewReader(root))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && h.Name == "tmp/" { // a volume here
			continue
		}
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	changes := ""
	for _, p := range paths {
		changes += "&changes=" + url.QueryEscape("VOLUME "+p)
		rel := strings.TrimPrefix(p, "/")
		for _, h := range []tar.Header{{Name: rel + "/", Typeflag: tar.TypeDir, Mode: 0o777}, {Name: rel + "/of-the-image", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3}} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := w.Write([]byte("yes")); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := docker.Do(t.Context(), http.MethodPost, "/images/create?fromSrc=-&repo="+url.QueryEscape(name)+"&tag=1"+changes, &buf, nil); err != nil {
		t.Fatal(err)
	}
	removeImage(t, name+":1")
	return name + ":1"
}

// A volume that an image declares would be a place on the engine's disk that no cap
// bounds. It is a scratch folder, within the step's memory; with a root that may be
// written to, which no cap bounds either, it is what the image says.
func TestVolumesOfTheImage(t *testing.T) {
	t.Parallel()
	d := configured(t)
	image := withVolumes(t, "nofx-test/volumes", "/data", "/tmp", "/home/step", "/workspace", "/dev/shm", "/srv/a/b", "/srv/a")
	const look = `for p in /data /srv/a /srv/a/b /dev/shm /tmp /home/step; do
	echo x >$p/x && echo "$p $(df -P $p | tail -n 1 | while read from size _; do echo $from $size; done)"
done; echo x >/workspace/x; cat /workspace/of-the-image`
	h, _ := newBox(t, d, on(image), func(s *driver.Spec) { s.Resources.MemoryMB = 64 })
	want := ""
	for _, p := range []string{"/data", "/srv/a", "/srv/a/b", "/dev/shm", "/tmp", "/home/step"} {
		size := map[bool]string{true: "16384", false: "65536"}[p == "/dev/shm"]
		want += p + " tmpfs " + size + "\n"
	}
	if r := run(t, d, h, look); r.out != want {
		t.Errorf("%q %q, want %q", r.out, r.err, want)
	}
	if r := run(t, d, h, "head -c 200000000 /dev/zero >/data/full"); r.exit.Cause == step.CauseExit && r.exit.Code == 0 {
		t.Errorf("200 MB were written with 64 MiB of memory: %+v", r.exit)
	}
	w := configured(t, func(c *Config) { c.WritableRoot = true })
	h, _ = newBox(t, w, on(image))
	if r := run(t, w, h, `echo x >/data/x && cat /data/x /data/of-the-image`); r.out != "x\nyes" {
		t.Errorf("%q %q", r.out, r.err)
	}
	if _, err := d.Create(t.Context(), newSpec(t, on(withVolumes(t, "nofx-test/inside", "/workspace/a")))); !step.Is(err, step.KindInvalid) || !strings.Contains(err.Error(), "/workspace/a") {
		t.Errorf("a volume in the workspace: %v", err)
	}
}
