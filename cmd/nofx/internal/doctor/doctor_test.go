package doctor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// good is a host that has everything.
func good() Host {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return Host{
		FS: fstest.MapFS{
			"proc/sys/user/max_user_namespaces":     file("15000\n"),
			"proc/sys/kernel/seccomp/actions_avail": file("kill_process errno allow\n"),
			"sys/fs/cgroup/cgroup.controllers":      file("cpuset cpu io memory pids\n"),
			"etc/nofx/nofxd.yaml":                   file("drivers:\n  local:\n    rootfs: /srv/debian\n"),
			"srv/debian/bin/sh":                     file(""),
		},
		Release: "6.1.0-18-amd64", UID: 0,
		Docker:  func(context.Context) (string, error) { return "1.41", nil },
		Runtime: func(context.Context, string) error { return nil },
		Runsc:   func(context.Context) (string, error) { return "v1", nil },
		Look:    func(string) bool { return true },
		Open:    func(string) error { return nil },
	}
}

// config makes the host's nofxd.yaml another.
func config(text string) func(*Host) {
	return func(h *Host) { h.FS.(fstest.MapFS)[configFile].Data = []byte(text) }
}

func TestExamine(t *testing.T) {
	t.Parallel()
	all := Examine(t.Context(), good())
	if !Healthy(all) {
		t.Errorf("%+v", all)
	}
	for _, f := range all {
		if f.State != OK || f.Seen == "" {
			t.Errorf("%+v", f)
		}
	}
	v1 := fstest.MapFS{}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		v1["sys/fs/cgroup/"+c+"/tasks"] = &fstest.MapFile{}
	}
	for what, c := range map[string]struct {
		spoil func(h *Host)
		check string
		state State
	}{
		"not root":      {func(h *Host) { h.UID = 1000 }, "root", Required},
		"an old kernel": {func(h *Host) { h.Release = "5.10.0-28-amd64" }, "kernel", Required},
		"5.12 will do":  {func(h *Host) { h.Release = "5.12.1" }, "kernel", OK},
		"no peak":       {func(h *Host) { h.Release = "5.15.0" }, "memory.peak", Missing},
		"no users":      {func(h *Host) { h.FS.(fstest.MapFS)["proc/sys/user/max_user_namespaces"].Data = []byte("0") }, "user namespaces", Required},
		"no seccomp":    {func(h *Host) { delete(h.FS.(fstest.MapFS), "proc/sys/kernel/seccomp/actions_avail") }, "seccomp", Required},
		"no pids": {func(h *Host) {
			h.FS.(fstest.MapFS)["sys/fs/cgroup/cgroup.controllers"].Data = []byte("cpu io memory")
		}, "control groups", Required},
		"no io": {func(h *Host) {
			h.FS.(fstest.MapFS)["sys/fs/cgroup/cgroup.controllers"].Data = []byte("cpu memory pids")
		}, "block io", Missing},
		"v1":             {func(h *Host) { h.FS = v1 }, "control groups", OK},
		"v1, no blkio":   {func(h *Host) { h.FS = v1 }, "block io", Missing},
		"no groups":      {func(h *Host) { h.FS = fstest.MapFS{} }, "control groups", Required},
		"no tunnel":      {func(h *Host) { h.Open = func(string) error { return errors.New("no such device") } }, "/dev/net/tun", Missing},
		"no mkfs":        {func(h *Host) { h.Look = func(p string) bool { return p != "mkfs.ext4" } }, "mkfs.ext4", Missing},
		"an old engine":  {func(h *Host) { h.Docker = func(context.Context) (string, error) { return "1.40", nil } }, "container engine", Missing},
		"no engine":      {func(h *Host) { h.Docker = func(context.Context) (string, error) { return "", errors.New("none") } }, "container engine", Missing},
		"no runsc":       {func(h *Host) { h.Runsc = func(context.Context) (string, error) { return "", errors.New("not there") } }, "runsc", Missing},
		"no runtime":     {func(h *Host) { h.Runtime = func(context.Context, string) error { return errors.New("none") } }, "engine's runsc", Missing},
		"host's root":    {config("drivers: {local: {rootfs: host}}"), "root file system", Missing},
		"its default":    {config("data_dir: /var/lib/nofx"), "root file system", Missing},
		"no such root":   {config("drivers: {local: {rootfs: /srv/gone}}"), "root file system", Missing},
		"no yaml":        {config("drivers: ["), "root file system", Missing},
		"no config":      {func(h *Host) { delete(h.FS.(fstest.MapFS), configFile) }, "root file system", Missing},
		"a newer engine": {func(h *Host) { h.Docker = func(context.Context) (string, error) { return "1.52", nil } }, "container engine", OK},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := good()
			c.spoil(&h)
			all := Examine(t.Context(), h)
			found := false
			for _, f := range all {
				if f.Check != c.check {
					continue
				}
				found = true
				if f.State != c.state || f.State != OK && (f.For == "" || f.Fix == "") {
					t.Errorf("%+v", f)
				}
			}
			if !found || c.state == Required && Healthy(all) {
				t.Errorf("found %t, healthy %t", found, Healthy(all))
			}
		})
	}
}

// This host is the one that tests run on: it has what they need.
func TestThis(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := `{"ApiVersion":"1.47","Runtimes":{"runc":{},"runsc":{}}}`
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	program := func(flag string) string {
		path := filepath.Join(t.TempDir(), "runsc")
		text := "#!/bin/sh\ncase $1 in flags) echo '  " + flag + " value' >&2;; *) echo 'runsc version v7'; echo spec: 1;; esac\n"
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	h, err := This(socket, program("-in-sandbox-cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	all := Examine(t.Context(), h)
	if !Healthy(all) {
		t.Errorf("%+v", all)
	}
	for _, f := range all {
		if f.Check == "container engine" && (f.State != OK || !strings.Contains(f.Seen, "1.47")) {
			t.Errorf("%+v", f)
		}
	}
	for _, f := range all[len(all)-2:] {
		if f.State != OK {
			t.Errorf("%+v", f)
		}
	}
	if v, err := h.Runsc(t.Context()); v != "v7" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := askRunsc(t.Context(), program("-other")); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("an old runsc: %v", err)
	}
	if err := h.Runtime(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "no runtime other") {
		t.Errorf("a runtime that it has not: %v", err)
	}
	if _, err := engineAPI(t.Context(), socket+"x"); err == nil {
		t.Error("an engine that is not there")
	}
}
