package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This is the host that the program runs on; docker is the engine's socket,
// runsc the program, "" = beside us or where hosts have it.
func This(docker, runsc string) (Host, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Host{}, fmt.Errorf("uname: %w", err)
	}
	return Host{
		FS: root(), Release: unix.ByteSliceToString(u.Release[:]), UID: os.Geteuid(),
		Docker:  func(ctx context.Context) (string, error) { return engineAPI(ctx, docker) },
		Runtime: func(ctx context.Context, name string) error { return engineRuntime(ctx, docker, name) },
		Runsc:   func(ctx context.Context) (string, error) { return askRunsc(ctx, runsc) },
		Look:    look, Open: open,
	}, nil
}

// look finds a program where Debian has it.
func look(program string) bool {
	for _, pattern := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib/postgresql/*/bin/"} {
		found, err := filepath.Glob(pattern + program)
		if err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

func open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return errors.Unwrap(err)
	}
	return f.Close()
}

// engineAPI asks a container engine for the version of its interface.
func engineAPI(ctx context.Context, socket string) (string, error) {
	var v struct {
		ApiVersion string //nolint:revive // the engine's name for it
		Components []struct{ Name string }
	}
	if err := askEngine(ctx, socket, "/version", &v); err != nil {
		return "", err
	}
	for _, c := range v.Components {
		if len(c.Name) >= 6 && c.Name[:6] == "Podman" {
			return "", errors.New("podman")
		}
	}
	return v.ApiVersion, nil
}

// engineRuntime asks it whether it has a runtime of that name.
func engineRuntime(ctx context.Context, socket, name string) error {
	var v struct {
		Runtimes map[string]struct{ Path string }
	}
	if err := askEngine(ctx, socket, "/info", &v); err != nil {
		return err
	}
	if _, ok := v.Runtimes[name]; !ok {
		return fmt.Errorf("the engine has no runtime %s", name)
	}
	return nil
}

// runscFlag is one that an old runsc does not have and ours needs.
const runscFlag = "-in-sandbox-cgroup"

// askRunsc gives gVisor's version, of one that is new enough.
func askRunsc(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if path == "" {
		path = findRunsc()
	}
	if path == "" {
		return "", errors.New("not there")
	}
	flags, err := exec.CommandContext(ctx, path, "flags").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Contains(flags, []byte(runscFlag)) {
		return "", fmt.Errorf("%s is too old: it has no -%s", path, runscFlag)
	}
	said, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	line, _, _ := strings.Cut(string(said), "\n")
	return strings.TrimPrefix(line, "runsc version "), nil
}

func findRunsc() string {
	places := []string{"/usr/local/bin/runsc", "/usr/bin/runsc"}
	if self, err := os.Executable(); err == nil {
		places = append([]string{filepath.Join(filepath.Dir(self), "runsc")}, places...)
	}
	for _, p := range places {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	return ""
}

// askEngine makes one request of a container engine.
func askEngine(ctx context.Context, socket, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("none at %s", socket)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into); err != nil {
		return fmt.Errorf("what is at %s does not answer like an engine", socket)
	}
	return nil
}
