package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func TestRunsAndStops(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "envy"}, func(c *Config) { c.Env = []string{"EXTRA=given"} })
	if err := r.Ready(bg(t)); err != nil {
		t.Fatal(err)
	}
	r.echo(t, "memory")
	info := r.infoOf(t, "memory", "healthy", healthy)
	if info.Version != "1.0.0" || len(info.Capabilities) < 5 {
		t.Errorf("info %+v", info)
	}
	if _, err := r.Driver("no-such"); !step.Is(err, step.KindNotFound) {
		t.Errorf("a driver that is not there: %v", err)
	}

	// A plugin sees nothing of the host's environment.
	d, _ := r.Driver("envy")
	desc, err := d.Describe(bg(t))
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{
		"PATH": true, "LANG": true, "TZ": true, "TMPDIR": true, "EXTRA": true, "NOFX_DRIVER_HOST_PID": true, "NOFX_DRIVER_PLUGIN": true,
		"PLUGIN_MIN_PORT": true, "PLUGIN_MAX_PORT": true, "PLUGIN_PROTOCOL_VERSIONS": true, "PLUGIN_CLIENT_CERT": true, "PLUGIN_UNIX_SOCKET_DIR": true,
	}
	for _, kv := range desc.Warnings {
		if name, _, _ := strings.Cut(kv, "="); !allowed[name] {
			t.Errorf("the plugin sees the variable %s", name)
		}
	}

	for _, name := range []string{r.cfg.SocketDir} {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v, want mode 0700", name, st.Mode(), err)
		}
	}
	sockets, _ := filepath.Glob(filepath.Join(r.cfg.SocketDir, "*", "plugin*"))
	for _, s := range sockets {
		if st, err := os.Stat(s); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("socket %s: %v %v, want it closed to others", s, st.Mode(), err)
		}
	}
	if len(sockets) != 2 {
		t.Errorf("sockets: %v", sockets)
	}
	pid := r.pid(t, "memory")
	other, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(bg(t)); !step.Is(err, step.KindConflict) {
		t.Errorf("a second host with the same folder: %v", err)
	}
	r.stop()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the plugin's process is still there: %v", err)
	}
	for _, pattern := range []string{filepath.Join(r.cfg.PidDir, "*"), filepath.Join(r.cfg.SocketDir, "*.json"), filepath.Join(r.cfg.SocketDir, "plugin-dir*")} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if _, err := d.Describe(bg(t)); !step.Is(err, step.KindUnavailable) {
		t.Errorf("a call after the end: %v", err)
	}
}

func TestKilledTwice(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory"})
	r.echo(t, "memory")
	d, _ := r.Driver("memory")
	seen := map[int]bool{}
	for range 2 {
		r.infoOf(t, "memory", "healthy", healthy)
		pid := r.pid(t, "memory")
		if seen[pid] {
			t.Errorf("process %d again", pid)
		}
		seen[pid] = true
		// An exec that is under way fails with a kind that says: ask Recover.
		broke := make(chan error, 1)
		h, err := d.Create(bg(t), driver.Spec{ID: fmt.Sprintf("long-%d", pid), Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{}, 1)
		go func() {
			broke <- d.Exec(bg(t), h, driver.ExecSpec{ID: "main", Argv: []string{"mem", "wait", "1000"}}, func(driver.ExecEvent) error {
				ready <- struct{}{}
				return nil
			})
		}()
		<-ready
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-broke; !step.Is(err, step.KindUnavailable) {
			t.Errorf("the exec under way: %v", err)
		}
		r.echo(t, "memory")
	}
	if pid := r.pid(t, "memory"); seen[pid] {
		t.Errorf("process %d again", pid)
	}
}

// A plugin that dies while it makes a sandbox costs its caller nothing: the next
// process is asked once more, under the same id. What a driver says itself is not
// asked again, nor is what every process dies of.
func TestDiesWhileItCreates(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"mortal"})
	d, err := r.Driver("mortal")
	if err != nil {
		t.Fatal(err)
	}
	create := func(id string) error {
		h, err := d.Create(bg(t), driver.Spec{ID: id, Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
		if err == nil && h.ID != id {
			t.Errorf("%s: handle %+v", id, h)
		}
		return err
	}
	starts := func() int { return strings.Count(r.log.String(), "plugin started") }
	if err := create("once"); err != nil {
		t.Errorf("a plugin that died once: %v", err)
	}
	if all, err := d.List(bg(t), "test"); err != nil || len(all) != 1 {
		t.Errorf("sandboxes %+v, %v; want one", all, err)
	}
	r.infoOf(t, "mortal", "healthy", healthy)
	before := starts()
	if err := create("away"); !step.Is(err, step.KindUnavailable) || !strings.Contains(err.Error(), "is away") {
		t.Errorf("what the driver says: %v", err)
	}
	r.echo(t, "mortal")
	if n := starts(); n != before {
		t.Errorf("started %d times, want %d", n, before)
	}
	if err := create("deadly"); !step.Is(err, step.KindUnavailable) {
		t.Errorf("what every process dies of: %v", err)
	}
	r.echo(t, "mortal")
	if n := starts(); n != before+2 {
		t.Errorf("started %d times, want %d", n, before+2)
	}
}

// Of the two processes that die of one call only the first counts against the
// plugin: whoever asks for what it dies of does not have it taken from everybody
// twice as soon. A plugin that goes on dying is quarantined all the same.
func TestDeathsOfOneCall(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"mortal"}) // quarantined after three deaths in a row
	d, err := r.Driver("mortal")
	if err != nil {
		t.Fatal(err)
	}
	deadly := func() {
		t.Helper()
		_, err := d.Create(bg(t), driver.Spec{ID: "deadly", Tags: driver.Tags{Owner: "test", ID: "tag"}, Network: step.NetworkNone})
		if !step.Is(err, step.KindUnavailable) {
			t.Errorf("what every process dies of: %v", err)
		}
	}
	for range 3 {
		deadly()
		r.echo(t, "mortal")
	}
	if n := strings.Count(r.log.String(), "plugin started"); n != 7 {
		t.Errorf("started %d times, want 7", n)
	}
	deadly()
	r.infoOf(t, "mortal", "quarantined", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
}

// A driver that has become healthy may be able to do more, or less, than when it
// was started.
func TestIsDescribedAnewWhenHealthy(t *testing.T) {
	t.Parallel()
	names := []string{"late", "latest"}
	r := start(t, names)
	for _, name := range names {
		r.infoOf(t, name, "able", func(i wire.DriverInfo) bool { return i.Healthy && slices.Contains(i.Capabilities, "cap.late") })
	}
}

func TestCraftedStderr(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"crafted"})
	r.echo(t, "crafted")
	for _, text := range []string{`{\"@message\":1}`, `"level":"WARN","msg":"fine","driver":"crafted","k":"v"`, "panic: not really"} {
		r.log.until(t, text)
	}
}

// What a plugin writes to stdout is in the log, as what it writes to stderr is,
// and does not make it hang, however long the line.
func TestWordsOnStdout(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"loud"})
	r.echo(t, "loud")
	for _, text := range []string{"said on stdout", "said on stderr", "said past it"} {
		r.log.until(t, text)
	}
}

func TestFloods(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"flood", "longline", "memory"})
	if err := r.Ready(bg(t)); err != nil {
		t.Fatal(err)
	}
	r.log.until(t, "lines were dropped")
	for range 20 {
		r.echo(t, "memory")
		r.echo(t, "flood")
		r.echo(t, "longline")
	}
	if n := len(r.log.String()); n > 16<<20 {
		t.Errorf("the log has %d bytes", n)
	}
}

func TestBadPluginsHarmNoOther(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"crash", "liar", "schema", "nonsense", "memory"}, func(c *Config) {
		c.Configs["absent"] = json.RawMessage(`{}`)
		c.Timeouts.Wait = 200 * time.Millisecond
	})
	r.echo(t, "memory")
	for _, name := range []string{"crash", "liar", "schema", "nonsense"} {
		i := r.infoOf(t, name, "quarantined", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
		if i.Healthy {
			t.Errorf("a quarantined driver is healthy: %+v", i)
		}
	}
	r.infoOf(t, "absent", "reported", func(i wire.DriverInfo) bool { return !i.Healthy && i.Message != "" })
	if err := r.Ready(bg(t)); err != nil {
		t.Fatal(err)
	}
	d, _ := r.Driver("crash")
	_, err := d.Describe(bg(t))
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.KindUnavailable || e.RetryAfter <= 0 || !strings.Contains(e.Message, "quarantined") {
		t.Errorf("a call to a quarantined driver: %v", err)
	}
	r.log.until(t, "I cannot live like this")
	r.echo(t, "memory")
}

func TestSwappedBinary(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"memory", "crash"})
	r.echo(t, "memory")
	first := strings.Count(r.log.String(), "plugin started")
	install(t, r.cfg.Dir, "memory", []byte("a newer build"))
	if err := syscall.Kill(r.pid(t, "memory"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "memory", "down", func(i wire.DriverInfo) bool { return !i.Healthy })
	r.infoOf(t, "memory", "healthy", healthy)
	r.echo(t, "memory")
	if first != 1 {
		t.Errorf("it was started %d times before", first)
	}
	var sums []string
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, "plugin started") {
			_, rest, _ := strings.Cut(line, `"sha256":"`)
			sums = append(sums, rest[:64])
		}
	}
	if len(sums) != 2 || sums[0] == sums[1] {
		t.Errorf("hashes %v, want two different ones", sums)
	}
	// A new file ends a quarantine.
	r.infoOf(t, "crash", "quarantined", func(i wire.DriverInfo) bool { return strings.HasPrefix(i.Message, "quarantined") })
	install(t, r.cfg.Dir, "crash", []byte("another one"))
	r.infoOf(t, "crash", "tried again", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "being restarted") })
}

// A file that was replaced while the one before it was tried for the last time
// is not quarantined for what that one did.
func TestReplacedDuringTheLastTry(t *testing.T) {
	t.Parallel()
	var dir string
	starts := make(chan int, 10)
	n := 0
	start(t, []string{"silent"}, func(c *Config) {
		dir = c.Dir
		c.QuarantineAfter, c.Timeouts.Start = 1, 500*time.Millisecond
		c.Place = func(string, int) error {
			if n++; n == 2 {
				install(t, dir, "silent", []byte("another one"))
			}
			starts <- n
			return nil
		}
	})
	late := time.After(20 * time.Second)
	for {
		select {
		case n := <-starts:
			if n == 3 {
				return
			}
		case <-late:
			t.Fatal("the new file is not tried")
		}
	}
}

func TestEndOfLeakyAndStubborn(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"leaky", "stubborn", "sick"}, func(c *Config) { c.Timeouts.Stop = 500 * time.Millisecond })
	r.echo(t, "leaky")
	r.echo(t, "stubborn")
	r.infoOf(t, "sick", "unhealthy", func(i wire.DriverInfo) bool { return !i.Healthy && i.Message == "I do not feel well" })
	before := r.pid(t, "leaky")
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "leaky", "down", func(i wire.DriverInfo) bool { return !i.Healthy })
	r.infoOf(t, "leaky", "healthy", healthy)
	r.echo(t, "leaky")
	pid, after := r.pid(t, "stubborn"), r.pid(t, "leaky")
	r.stop()
	for _, group := range []int{before, after} { // the children that were left to hold the pipes
		if err := syscall.Kill(-group, syscall.SIGKILL); err != nil {
			t.Errorf("there was no child to hold the pipes: %v", err)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the stubborn plugin is still there: %v", err)
	}
}

func TestSlowStartIsGivenUp(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"silent"}, func(c *Config) { c.Timeouts.Start = 300 * time.Millisecond })
	if err := r.Ready(bg(t)); err != nil {
		t.Fatal(err)
	}
	r.infoOf(t, "silent", "down", func(i wire.DriverInfo) bool { return !i.Healthy && strings.Contains(i.Message, "restarted") })
}

func TestPlace(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	placed := map[string]int{}
	r := start(t, []string{"memory", "envy"}, func(c *Config) {
		c.Place = func(name string, pid int) error {
			mu.Lock()
			defer mu.Unlock()
			placed[name] = pid
			if name == "envy" {
				return errors.New("there is no place for it")
			}
			return nil
		}
	})
	r.echo(t, "memory")
	mu.Lock()
	got := placed["memory"]
	mu.Unlock()
	if got != r.pid(t, "memory") {
		t.Errorf("placed process %d, running %d", got, r.pid(t, "memory"))
	}
	r.infoOf(t, "envy", "down", func(i wire.DriverInfo) bool { return strings.Contains(i.Message, "there is no place for it") })
}
