package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// This is the host that the program runs on; docker is the engine's socket.
func This(docker string) (Host, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Host{}, fmt.Errorf("uname: %w", err)
	}
	return Host{
		FS: root(), Release: unix.ByteSliceToString(u.Release[:]), UID: os.Geteuid(),
		Docker: func(ctx context.Context) (string, error) { return engineAPI(ctx, docker) },
		Look:   look, Open: open,
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
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/version", nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", fmt.Errorf("none at %s", socket)
	}
	defer func() { _ = resp.Body.Close() }()
	var v struct {
		ApiVersion string //nolint:revive // the engine's name for it
		Components []struct{ Name string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&v); err != nil {
		return "", fmt.Errorf("what is at %s does not answer like an engine", socket)
	}
	for _, c := range v.Components {
		if len(c.Name) >= 6 && c.Name[:6] == "Podman" {
			return "", errors.New("podman")
		}
	}
	return v.ApiVersion, nil
}
