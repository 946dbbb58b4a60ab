package hostile

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/sdk/step"
)

// odd are images whose file system is made to lead a runtime astray: what has to
// be a folder or a device is a link. An image is its author's, not the host's.
var odd = map[string]map[string]string{
	"proc":    {"proc": "tmp"},
	"sys":     {"sys": "/etc"},
	"dev":     {"dev": "/proc"},
	"null":    {"dev/null": "/proc/sysrq-trigger", "dev/pts": "/proc/sys", "dev/console": "/proc/sys/kernel/core_pattern"},
	"first":   {"workspace": "/.nofx"},
	"other":   {".nofx": "/workspace"},
	"outside": {"workspace": "/proc/1/root", "tmp": "../../../../../../../tmp", "run": "/proc/self/cwd"},
}

// images are the rows of those.
func images() []Row {
	var rows []Row
	for _, name := range []string{"proc", "sys", "dev", "null", "first", "other", "outside"} {
		rows = append(rows, Row{ID: "H22", Name: "an image with odd links: " + name, On: "container", Short: name == "null" || name == "first",
			Play: func(p *play) (seen, wrong string) { return p.oddImage(name) }})
	}
	return rows
}

// oddImage has a step run in it, or not: the host is as it was, and a step that
// runs is masked as any other is.
func (p *play) oddImage(name string) (seen, wrong string) {
	s := p.step("a", `
		(echo x >/proc/sys/kernel/core_pattern) 2>/dev/null && [ -e /proc/self/status ] && echo BROKEN core_pattern
		(echo h >/proc/sysrq-trigger) 2>/dev/null && [ -e /proc/self/status ] && echo BROKEN sysrq
		for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do head -c 16 $f 2>/dev/null | grep -q . && echo BROKEN $f; done
		for f in /sys/firmware/* /sys/fs/cgroup/*/cgroup.procs; do [ -w $f ] && echo BROKEN $f; done
		ls /proc/1/root/root/.ssh 2>/dev/null; echo end`, nil)
	s.Image = p.images[name]
	d, text, err := p.ran(s)
	if err != nil {
		return "", err.Error()
	}
	v := d.Steps[0].Verdict
	switch {
	case p.canary.touched() != "":
		return v.String(), p.canary.touched()
	case v.Cause == step.CauseDriverError: // it was not started
		return v.String(), ""
	case v.Cause != step.CauseExit || text != "end\n":
		return v.String(), fmt.Sprintf("it printed %.300q %s", text, v.Message)
	}
	return v.String(), ""
}

// importOdd makes the images on an engine: Busybox, and the links in the place of
// what is there.
func importOdd(t *testing.T, e *testdocker.Engine) map[string]string {
	t.Helper()
	base, err := testdocker.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for name, links := range odd {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for r := tar.NewReader(bytes.NewReader(base)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, instead := links[strings.TrimSuffix(h.Name, "/")]; instead {
				continue
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(w, r); err != nil { //nolint:gosec // ours
				t.Fatal(err)
			}
		}
		for _, link := range slices.Sorted(maps.Keys(links)) {
			if err := w.WriteHeader(&tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: links[link], Mode: 0o777}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		names[name] = "nofx-odd-" + name + ":test"
		if err := e.Do(t.Context(), http.MethodPost, "/images/create?fromSrc=-&repo="+url.QueryEscape("nofx-odd-"+name)+"&tag=test", &buf, nil); err != nil {
			t.Fatal(err)
		}
	}
	return names
}
