package hostile

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/internal/testdocker"
	"github.com/nofx-run/nofx/internal/testnet"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// all has every row run; without it those that CI has time for.
var all = os.Getenv("NOFX_HOSTILE") == "all"

// wanted reports whether the row is to be run: with NOFX_HOSTILE=H35,H44 those are.
func wanted(r Row) bool {
	only := strings.Split(os.Getenv("NOFX_HOSTILE"), ",")
	return all || r.Short && only[0] == "" || slices.Contains(only, r.ID)
}

// outcome is what came of a row on a level.
type outcome struct {
	row    Row
	driver level
	seen   string
	wrong  string // "" = it held
}

func TestHostile(t *testing.T) {
	w := testnet.New(t)
	w.Names(t, map[string][]string{"example.com": {testnet.OtherServer}})
	for _, a := range []string{
		testnet.Server + ":5000", testnet.Metadata + ":80", testnet.Azure + ":80", testnet.Alibaba + ":80",
		testnet.Private + ":5432", testnet.Private2 + ":80", testnet.Private3 + ":443",
		"[" + testnet.Server6 + "]:5000", "[" + testnet.Metadata6 + "]:80",
	} {
		w.Greeter(t, a)
	}
	for _, a := range []string{testnet.Server + ":5001", "[" + testnet.Server6 + "]:5001", testnet.Private + ":5001"} {
		w.Echo(t, a)
	}
	// A service of the host's own, on every address that it has.
	service, err := testnet.Within(t, w.Host(), func() (net.Listener, error) { return net.Listen("tcp", ":7999") })
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go greet(service)
	runsc := buildRunsc(t)
	docker, err := testdocker.StartWith(t.Context(), t.TempDir(), engineWith(t, runsc))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := harness.StartIn(t, w.Host(), []string{
		"--docker", strings.TrimPrefix(docker.Host(), "unix://"), "--image", testdocker.Image, "--resolver", testnet.DNS + ":53",
		"--runsc", runsc, "--gvisor-runtime", "runsc",
	}, "NOFX_TEST_CANARY=canary-of-the-host")

	base := play{t: t, s: s, probe: buildProbe(t), images: importOdd(t, docker), canary: newCanary(t)}
	before := watch(t, s)
	var outcomes []outcome
	for _, l := range []level{{"local", ""}, {"container", ""}, {"local", "gvisor"}, {"container", "gvisor"}} {
		here := base
		here.level = l
		outcomes = append(outcomes, here.rows()...)
	}
	table(t, outcomes)
	for _, o := range outcomes {
		if o.wrong != "" {
			t.Errorf("%s %s on %s: %s", o.row.ID, o.row.Name, o.driver, o.wrong)
		}
	}
	controls(t, base.probe)
	if touched := base.canary.touched(); touched != "" {
		t.Error(touched)
	}
	before.check(t, s)
}

func buildProbe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-static", "-O1", "-s", "-o", path, "testdata/probe.c").CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v: %s", err, out)
	}
	return path
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = fmt.Fprintln(c, "hello from the host")
		_ = c.Close()
	}
}

func buildRunsc(t *testing.T) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", "runsc").CombinedOutput(); err != nil {
		t.Fatalf("building runsc: %v: %s", err, out)
	}
	path, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// engineWith is a daemon.json with runsc as the driver container needs it.
func engineWith(t *testing.T, runsc string) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"runtimes": map[string]any{"runsc": map[string]any{
		"path": runsc, "runtimeArgs": []string{"--host-uds=open", "--in-sandbox-cgroup=v2", "--gofer-network-namespace=new"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rows runs the rows on a level, some at a time, next to a neighbour.
func (p play) rows() []outcome {
	p.t.Helper()
	neighbour := begin(p.s, p.level)
	places := make(chan struct{}, 3)
	var mu sync.Mutex
	var out []outcome
	var group sync.WaitGroup
	for _, r := range Rows() {
		if !wanted(r) || !p.level.has(r) {
			continue
		}
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			o := p.run(r)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, o)
		})
	}
	group.Wait()
	slices.SortStableFunc(out, func(a, b outcome) int { return strings.Compare(a.row.ID+a.row.Name, b.row.ID+b.row.Name) })
	neighbour.end(p.t)
	return out
}

func (p *play) run(r Row) outcome {
	o := outcome{row: r, driver: p.level}
	if r.Play != nil {
		o.seen, o.wrong = r.Play(p)
		return o
	}
	if r.Before != "" {
		if res := p.s.Nofx("", append(append([]string{"exec"}, p.level.flags()...), "--", "/bin/sh", "-c", r.Before)...); res.Code != 0 {
			o.wrong = fmt.Sprintf("what goes before: %+v", res)
			return o
		}
	}
	dir := p.t.TempDir()
	args := slices.Concat([]string{"exec", "--json"}, p.level.flags(), r.Flags)
	if r.Probe {
		args = append(args, "--file", p.probe+":probe")
	}
	for _, path := range r.Artifacts {
		args = append(args, "--artifact", path)
	}
	res := p.s.Nofx(dir, append(args, "--", "/bin/sh", "-c", r.script())...)
	lines := strings.Split(strings.TrimSpace(res.Stderr), "\n")
	var v step.Verdict
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil {
		o.wrong = fmt.Sprintf("no verdict: %+v", res)
		return o
	}
	o.seen = v.String()
	want := r.Cause
	if len(want) == 0 {
		want = []step.Cause{step.CauseExit}
	}
	switch {
	case !slices.Contains(want, v.Cause):
		o.wrong = fmt.Sprintf("ended by %s, want %v: %.300s %s", v, want, res.Stdout, v.Message)
	case len(r.Cause) == 0 && !v.Success():
		o.wrong = fmt.Sprintf("ended by %s: %.300q %.300q", v, res.Stdout, res.Stderr)
	case v.Attested != step.AttestedKernel:
		o.wrong = "attested by " + v.Attested
	case r.out() != "" && res.Stdout != r.out():
		o.wrong = fmt.Sprintf("it printed %.300q, want %.300q", res.Stdout, r.out())
	case !strings.Contains(res.Stderr, r.Told):
		o.wrong = fmt.Sprintf("the command does not say %q: %.300q", r.Told, res.Stderr)
	case r.Look != nil:
		o.wrong = r.Look(res.Stdout, dir)
	}
	for _, word := range append(r.Not, hostWords(p.t)...) {
		if strings.Contains(res.Stdout, word) {
			o.wrong = fmt.Sprintf("its output has %q", word)
		}
	}
	if len(r.Artifacts) > 0 && o.wrong == "" {
		o.wrong = leaked(dir)
	}
	return o
}

// leaked finds what is the host's in what was kept of a workspace.
func leaked(dir string) string {
	wrong := ""
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
		if !e.Type().IsRegular() {
			return nil
		}
		body, err := os.ReadFile(path)
		if err != nil || bytes.Contains(body, []byte(canaryText)) || bytes.Contains(body, []byte("root:")) || bytes.Contains(body, []byte("NOFX_")) {
			wrong = fmt.Sprintf("%s has what is not the step's: %.80q %v", path, body, err)
		}
		return nil
	})
	return wrong
}

// hostWords are what would tell a step which host it is on.
func hostWords(t *testing.T) []string {
	t.Helper()
	var words []string
	for _, path := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id"} {
		if data, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(data))) > 8 {
			words = append(words, strings.TrimSpace(string(data)))
		}
	}
	return words
}

// controls shows that what was refused inside works outside: else the rows
// prove nothing.
func controls(t *testing.T, probe string) {
	t.Helper()
	for _, r := range Rows() {
		if r.Control == "" {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", r.Control)
		cmd.Env = append(cmd.Environ(), "PROBE="+probe)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s %s: its control does not work on this host: %v: %s", r.ID, r.Name, err, out)
		}
	}
}

// canaries are what no step may change or exhaust.
type canaries struct {
	files map[string][32]byte
	fds   int
}

var watched = []string{"/proc/sys/kernel/core_pattern", "/etc/passwd", "/etc/shadow"}

func watch(t *testing.T, s *harness.System) canaries {
	t.Helper()
	c := canaries{files: map[string][32]byte{}, fds: fds(t, s)}
	for _, path := range append(watched, filepath.Join(s.Bin, "nofx-supervisor"), filepath.Join(s.Dir, "plugins", "nofx-supervisor")) {
		c.files[path] = sum(t, path)
	}
	return c
}

func (c canaries) check(t *testing.T, s *harness.System) {
	t.Helper()
	for path, want := range c.files {
		if sum(t, path) != want {
			t.Errorf("%s is another one", path)
		}
	}
	// What the rows left goes with the sweep at the latest.
	s.Eventually("the daemon's descriptors are back", func() bool { return fds(t, s) <= c.fds+16 })
	if rss := resident(t, s.Pid("nofxd")); rss > 128<<20 {
		t.Errorf("nofxd has %d MiB", rss>>20)
	}
	s.Eventually("no process of a step is left", func() bool {
		for _, p := range []string{"7321", "7322", "7323", "7324", "7325", "7326"} {
			if exec.CommandContext(t.Context(), "pgrep", "-f", p).Run() == nil {
				return false
			}
		}
		return true
	})
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}

func fds(t *testing.T, s *harness.System) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid("nofxd")))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func resident(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// neighbour is a step that works while the rows run. It must not notice.
type neighbour struct {
	done chan harness.Result
}

const ticks = 20 // of half a second

func begin(s *harness.System, driver level) neighbour {
	n := neighbour{make(chan harness.Result, 1)}
	go func() {
		n.done <- s.Nofx("", append(append([]string{"exec", "--json"}, driver.flags()...), "--timeout", "120s", "--", "/bin/sh", "-c",
			fmt.Sprintf("i=0; while [ $i -lt %d ]; do (true) || exit 9; : >/tmp/f && : >/workspace/f || exit 8; sleep 0.5; i=$((i+1)); done; echo fine", ticks))...)
	}()
	return n
}

func (n neighbour) end(t *testing.T) {
	t.Helper()
	r := <-n.done
	var v step.Verdict
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil || r.Stdout != "fine\n" {
		t.Errorf("the neighbour: %+v", r)
		return
	}
	if wall := time.Duration(v.Usage.WallMS) * time.Millisecond; wall > 3*ticks*time.Second/2 {
		t.Errorf("the neighbour took %v", wall)
	}
}

func table(t *testing.T, outcomes []outcome) {
	t.Helper()
	var b strings.Builder
	for _, o := range outcomes {
		held := "held"
		switch {
		case o.wrong != "":
			held = "NOT HELD"
		case strings.HasPrefix(o.seen, notTried):
			held = ""
		}
		fmt.Fprintf(&b, "%-4s %-16s %-42s %-12s %s\n", o.row.ID, o.driver, o.row.Name, o.seen, held)
	}
	t.Logf("%d rows\n%s", len(outcomes), b.String())
}
