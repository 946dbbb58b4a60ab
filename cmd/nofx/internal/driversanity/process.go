package driversanity

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nofx-run/nofx/internal/testhost"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

const groupProcess suite.Group = "process"

type processCase struct {
	name  string
	group suite.Group
	run   func(suite.T)
}

// processCases look at the plugin's process and at what was left of the others.
func (s *sanity) processCases() []processCase {
	return []processCase{
		{"RefusesToRunByHand", groupProcess, s.refusesToRunByHand},
		{"EndsWhenAsked", groupProcess, s.endsWhenAsked},
		{"KeepsNoDescriptors", groupProcess, s.keepsNoDescriptors},
		{"LeavesNoProcesses", groupProcess, s.leavesNoProcesses},
	}
}

// refusesToRunByHand starts the executable without the daemon's cookie: a word
// of explanation and an exit status are wanted, not a server for anybody.
func (s *sanity) refusesToRunByHand(t suite.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(s.Patience*float64(5*time.Second)))
	defer cancel()
	path, err := filepath.Abs(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, t.TempDir(), time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		t.Error("without the daemon's cookie it keeps running")
	case err == nil:
		t.Error("without the daemon's cookie it ends with success")
	case len(bytes.TrimSpace(out)) == 0:
		t.Error("without the daemon's cookie it does not say why it ends")
	}
}

// endsWhenAsked wants the process to end within the protocol's 5 s, with a
// health stream open as the daemon always has one.
func (s *sanity) endsWhenAsked(t suite.T) {
	p := s.start(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	said := make(chan struct{}, 1)
	go func() {
		_ = p.Driver().Health(ctx, func(driver.Health) error {
			select {
			case said <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	select {
	case <-said:
	case <-time.After(time.Duration(s.Patience * float64(5*time.Second))):
		t.Error("it says nothing of its health")
	}
	asked := time.Now()
	if !p.Stop() || time.Since(asked) > 5*time.Second {
		t.Errorf("asked to end, it did not within 5 s")
	}
}

// keepsNoDescriptors runs sandboxes one after the other and looks whether the
// process keeps something of each.
func (s *sanity) keepsNoDescriptors(t suite.T) {
	p := s.start(t, "")
	t.Cleanup(func() { p.Stop() })
	d := s.client(t, p)
	f := s.factory()
	config := s.Config
	if len(config) == 0 {
		config = []byte(`{}`)
	}
	if err := d.Configure(t.Context(), config); err != nil {
		t.Fatalf("configure: %v", err)
	}
	round := func() {
		id := "dt-" + testhost.Random()
		spec := driver.Spec{ID: id, Tags: driver.Tags{Owner: "drivertest-" + id, ID: id}}
		f.Spec(t, &spec)
		h, err := d.Create(t.Context(), spec)
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		defer func() {
			if err := d.Destroy(context.WithoutCancel(t.Context()), h); err != nil {
				t.Errorf("destroy: %v", err)
			}
		}()
		x := driver.ExecSpec{ID: "main", Argv: s.Programs.Exit(0), Env: f.Env}
		if err := d.Exec(t.Context(), h, x, func(driver.ExecEvent) error { return nil }); err != nil {
			t.Fatalf("exec: %v", err)
		}
	}
	const rounds = 10
	for range 3 { // what it opens once it may keep
		round()
	}
	before := open(p.PID())
	for range rounds {
		round()
	}
	deadline := time.Now().Add(time.Duration(s.Patience * float64(5*time.Second)))
	for {
		after := open(p.PID())
		if after < before+rounds/2 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d sandboxes later its process has %d descriptors and tasks more", rounds, after-before)
			return
		}
		suite.Pause(t, 50*time.Millisecond)
	}
}

// open counts a process's descriptors, tasks and children.
func open(pid int) int {
	n := 0
	for _, pattern := range []string{"fd/*", "task/*/children"} {
		names, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), pattern))
		for _, name := range names {
			if filepath.Base(name) != "children" {
				n++
			} else if data, err := os.ReadFile(name); err == nil {
				n += len(bytes.Fields(data))
			}
		}
	}
	return n
}

// leavesNoProcesses looks for programs of sandboxes on this host. Each had a
// variable in its environment that nobody else has.
func (s *sanity) leavesNoProcesses(t suite.T) {
	deadline := time.Now().Add(time.Duration(s.Patience * float64(5*time.Second)))
	for {
		left := marked(s.mark)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, l := range left {
				t.Errorf("a process of a sandbox is left: %s", l)
			}
			return
		}
		suite.Pause(t, 50*time.Millisecond)
	}
}

func marked(mark string) []string {
	var left []string
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		env, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(append([]byte{0}, env...), append([]byte{0}, mark...)) {
			continue
		}
		dir := filepath.Dir(name)
		argv, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		left = append(left, fmt.Sprintf("%s %q", filepath.Base(dir), bytes.ReplaceAll(bytes.TrimSuffix(argv, []byte{0}), []byte{0}, []byte{' '})))
	}
	return left
}
