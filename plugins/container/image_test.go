package container

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest"
	"github.com/nofx-run/nofx/sdk/step"
)

// registry serves one image under any name, as registries do, and counts how
// often its manifest is asked for.
type registry struct {
	*httptest.Server
	blobs    map[string][]byte
	manifest []byte
	layer    []byte // a tar
	zipped   []byte

	mu    sync.Mutex
	pulls int
	slow  chan struct{} // layers are sent once it is closed; nil = at once
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// newRegistry makes one; label tells its image from another registry's.
func newRegistry(t *testing.T, label string) *registry {
	t.Helper()
	layer, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(layer); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	r := &registry{layer: layer, zipped: zipped.Bytes()}
	r.configure(t, fmt.Sprintf(`"Labels":{"l":%q}`, label))
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// configure has the image declare what is in the JSON of its configuration.
func (r *registry) configure(t *testing.T, declares string) {
	t.Helper()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{%s},"rootfs":{"type":"layers","diff_ids":[%q]}}`, declares, digest(r.layer))
	r.blobs = map[string][]byte{digest(config): config, digest(r.zipped): r.zipped}
	r.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%d,"digest":%q},
"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":%d,"digest":%q}]}`,
		len(config), digest(config), len(r.zipped), digest(r.zipped))
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	last := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	switch {
	case strings.Contains(req.URL.Path, "/manifests/"):
		r.mu.Lock()
		r.pulls++
		r.mu.Unlock()
		w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
		w.Header().Set("Docker-Content-Digest", digest(r.manifest))
		_, _ = w.Write(r.manifest)
	case strings.Contains(req.URL.Path, "/blobs/") && r.blobs[last] != nil:
		if req.Method == http.MethodGet && r.slow != nil {
			select {
			case <-r.slow:
			case <-req.Context().Done():
				return
			}
		}
		_, _ = w.Write(r.blobs[last])
	case req.URL.Path == "/v2/":
		_, _ = w.Write([]byte("{}"))
	default:
		http.NotFound(w, req)
	}
}

func (r *registry) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls
}

// name is an image's in this registry.
func (r *registry) name(repo string) string {
	return strings.TrimPrefix(r.URL, "http://") + "/" + repo
}

func on(image string) func(*driver.Spec) { return func(s *driver.Spec) { s.Image = image } }

func removeImage(t *testing.T, name string) {
	t.Cleanup(func() {
		if err := docker.Do(context.Background(), http.MethodDelete, "/images/"+name+"?force=1", nil, nil); err != nil && !strings.Contains(err.Error(), "404") {
			t.Error(err)
		}
	})
}

// A pull takes as long as it takes: a creation that is given up meanwhile does not
// end it, and the next one finds what it brought.
func TestPullOutlivesTheCall(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, t.Name())
	r.slow = make(chan struct{})
	image := r.name("team/large") + ":1"
	removeImage(t, image)
	d := configured(t, func(c *Config) { c.Pull = PullMissing })
	spec := newSpec(t, on(image))
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	client, stop := drivertest.Serve(t, d)
	defer stop()
	if _, err := client.Create(short, spec); !step.Is(err, step.KindRateLimited) { // which no breaker counts
		t.Fatalf("create whose image does not come: %v", err)
	}
	before := r.asked()
	if before == 0 {
		t.Fatal("the registry was not asked")
	}
	close(r.slow)
	h, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), h); err != nil {
			t.Error(err)
		}
	})
	if r.asked() != before {
		t.Errorf("the image was asked for %d times, and %d before the first call was given up", r.asked(), before)
	}
}

func TestPullPolicies(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, t.Name())
	image := r.name("team/box") + ":1"
	removeImage(t, image)

	never := configured(t)
	if _, err := never.Create(t.Context(), newSpec(t, on(image))); !step.Is(err, step.KindNotFound) || r.asked() != 0 {
		t.Errorf("present: %v, asked %d times", err, r.asked())
	}
	missing := configured(t, func(c *Config) { c.Pull = PullMissing })
	h, _ := newBox(t, missing, on(image))
	if got := run(t, missing, h, "echo pulled"); got.out != "pulled\n" || r.asked() == 0 {
		t.Errorf("%+v, asked %d times", got, r.asked())
	}
	before := r.asked()
	newBox(t, missing, on(image))
	newBox(t, never, on(image))
	if r.asked() != before {
		t.Error("the registry was asked for an image that is there")
	}
	always := configured(t, func(c *Config) { c.Pull = PullAlways })
	newBox(t, always, on(image))
	if r.asked() == before {
		t.Error("the registry was not asked")
	}
	if _, err := missing.Create(t.Context(), newSpec(t, on(r.name("team/box")+"@sha256:"+strings.Repeat("0", 64)))); err == nil {
		t.Error("an image that has another digest was taken")
	}
	h, _ = newBox(t, missing, on(r.name("team/box")+"@"+digest(r.manifest)))
	if got := run(t, missing, h, "echo pinned"); got.out != "pinned\n" {
		t.Errorf("%+v", got)
	}
	r.Close()
	if _, err := always.Create(t.Context(), newSpec(t, on(image))); err == nil {
		t.Error("no registry, and always: it was made")
	}
}

func TestAllowedImages(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.AllowedImages = []string{"docker.io/nofx-test/*"} })
	newBox(t, d) // its default is one of them
	for _, bad := range []string{"docker.io/library/busybox:1", "nofx-test/a/b:1", "registry.test/nofx-test/busybox:1"} {
		if _, err := d.Create(t.Context(), newSpec(t, on(bad))); !step.Is(err, step.KindForbidden) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := d.Create(t.Context(), newSpec(t, on("UPPER case"))); !step.Is(err, step.KindInvalid) {
		t.Errorf("no name: %v", err)
	}
	pinned := configured(t, func(c *Config) { c.Image, c.RequireDigest = "", true })
	if _, err := pinned.Create(t.Context(), newSpec(t, on(testdocker.Image))); !step.Is(err, step.KindForbidden) {
		t.Errorf("without a digest: %v", err)
	}
	if _, err := pinned.Create(t.Context(), newSpec(t)); !step.Is(err, step.KindInvalid) {
		t.Errorf("without an image: %v", err)
	}
}

// The cache keeps what was used last, and what is in use; what the driver did
// not pull is not its to remove.
func TestImageCache(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.Pull, c.ImageCacheMB = PullMissing, 1 })
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	old, used := newRegistry(t, t.Name()+"-old").name("a")+":1", newRegistry(t, t.Name()+"-used").name("b")+":1"
	removeImage(t, old)
	removeImage(t, used)
	h, err := d.Create(t.Context(), newSpec(t, on(old)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	newBox(t, d, on(used))
	if err := d.trimImages(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	there := func(name string) bool {
		id, err := set.engine.image(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return id != ""
	}
	if there(old) || !there(used) || !there(testdocker.Image) {
		t.Errorf("old %v, in use %v, not ours %v", there(old), there(used), there(testdocker.Image))
	}
	path, err := cacheOf(set)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := readCache(path)
	if err != nil || len(kept) != 1 || !strings.Contains(filepath.Base(path), ".images-") {
		data, _ := json.Marshal(kept)
		t.Errorf("the account: %s, %v", data, err)
	}
}

// An image that was pulled under several names goes with all of them. One that
// somebody else has named as well is his.
func TestImageCacheWithSeveralNames(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.Pull, c.ImageCacheMB = PullMissing, 1 })
	set, err := d.configured()
	if err != nil {
		t.Fatal(err)
	}
	twice, named := newRegistry(t, t.Name()+"-twice"), newRegistry(t, t.Name()+"-named")
	theirs := "nofx-test/theirs"
	names := []string{twice.name("a") + ":1", twice.name("a") + ":2", twice.name("b") + ":1", named.name("c") + ":1"}
	for _, n := range names {
		removeImage(t, n)
		h, err := d.Create(t.Context(), newSpec(t, on(n)))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Destroy(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if err := docker.Do(t.Context(), http.MethodPost, "/images/"+names[3]+"/tag?repo="+theirs+"&tag=1", nil, nil); err != nil {
		t.Fatal(err)
	}
	removeImage(t, theirs+":1")
	if err := d.trimImages(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{names[0]: false, names[1]: false, names[2]: false, names[3]: false, theirs + ":1": true} {
		id, err := set.engine.image(t.Context(), name)
		if err != nil || (id != "") != want {
			t.Errorf("%s: there %v, want %v, %v", name, id != "", want, err)
		}
	}
	path, err := cacheOf(set)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := readCache(path); err != nil || len(kept) != 0 {
		t.Errorf("the account has %d images, %v", len(kept), err)
	}
}
