// Package testdocker gives tests a real Docker Engine: one private dockerd a
// test process, with its own containerd, socket and data, without a bridge and
// without touching the host's firewall, gone with the process. A machine without
// dockerd makes the tests fail, not skip.
package testdocker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Image is the image that every engine has: busybox with all its applets.
const Image = "nofx-test/busybox:1"

// Engine is a running dockerd and its containerd, which outlives it as it does
// where they are two services.
type Engine struct {
	dir              string
	args             []string
	dockerd, runtime *child
	log              *os.File
}

// child is a process of ours.
type child struct {
	cmd  *exec.Cmd
	dead chan struct{}
}

const path = "/usr/sbin:/usr/bin:/sbin:/bin"

// Start starts an engine whose files are below dir, an absolute path, and
// imports Image. args are added to dockerd's own.
func Start(ctx context.Context, dir string, args ...string) (*Engine, error) {
	return StartWith(ctx, dir, []byte("{}"), args...)
}

// StartWith starts one with what dockerd reads from its daemon.json.
func StartWith(ctx context.Context, dir string, config []byte, args ...string) (_ *Engine, err error) {
	e := &Engine{dir: dir, args: args}
	// Not the host's own configuration.
	if err := os.WriteFile(filepath.Join(dir, "daemon.json"), config, 0o600); err != nil {
		return nil, err
	}
	if e.log, err = os.Create(filepath.Join(dir, "dockerd.log")); err != nil {
		return nil, err
	}
	err = e.startRuntime(ctx)
	if err == nil {
		err = e.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, e.end())
	}
	if err := e.importImage(ctx); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// Socket is the path of its socket.
func (e *Engine) Socket() string { return e.path("docker.sock") }

// Host is what clients are configured with.
func (e *Engine) Host() string { return "unix://" + e.Socket() }

func (e *Engine) path(name string) string { return filepath.Join(e.dir, name) }

// spawn starts a program whose output goes to the log.
func (e *Engine) spawn(program string, args ...string) (*child, error) {
	c := &child{exec.CommandContext(context.Background(), program, args...), make(chan struct{})} // ended by end
	c.cmd.Env = []string{"PATH=" + path, "HOME=" + e.dir}
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = e.dir, e.log, e.log
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("testdocker: %w (make setup installs docker.io)", err)
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.dead)
	}()
	return c, nil
}

// end ends it with a signal, and with SIGKILL if that does not.
func (c *child) end(sig syscall.Signal) error {
	if c == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.dead:
		return nil
	case <-time.After(time.Minute):
		return errors.Join(fmt.Errorf("testdocker: %s does not end", c.cmd.Path), c.cmd.Process.Kill())
	}
}

// await polls ready until it holds, c has ended or a minute has passed.
func (e *Engine) await(ctx context.Context, c *child, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready(ctx) {
		select {
		case <-tick.C:
		case <-c.dead:
			log, _ := os.ReadFile(e.log.Name())
			return fmt.Errorf("testdocker: %s ended:\n%s", c.cmd.Path, log[max(0, len(log)-4000):])
		case <-ctx.Done():
			return fmt.Errorf("testdocker: %s does not answer: %w", c.cmd.Path, ctx.Err())
		}
	}
	return nil
}

func (e *Engine) startRuntime(ctx context.Context) (err error) {
	config := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	if err := os.WriteFile(e.path("containerd.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	socket := e.path("containerd.sock")
	e.runtime, err = e.spawn("/usr/bin/containerd", "--config", e.path("containerd.toml"),
		"--root", e.path("containerd"), "--state", e.path("state"), "--address", socket)
	if err != nil {
		return err
	}
	return e.await(ctx, e.runtime, func(ctx context.Context) bool {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		return err == nil && c.Close() == nil
	})
}

func (e *Engine) start(ctx context.Context) (err error) {
	// One that was killed left its file, whose process may be another's now.
	if err := os.Remove(e.path("pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	e.dockerd, err = e.spawn("/usr/sbin/dockerd", append([]string{
		"--containerd", e.path("containerd.sock"), "--data-root", e.path("data"), "--exec-root", e.path("exec"),
		"--pidfile", e.path("pid"), "-H", e.Host(), "--config-file", e.path("daemon.json"),
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
	}, e.args...)...)
	if err != nil {
		return err
	}
	return e.await(ctx, e.dockerd, func(ctx context.Context) bool { return e.Do(ctx, http.MethodGet, "/_ping", nil, nil) == nil })
}

// Restart ends dockerd with a signal and starts it again.
func (e *Engine) Restart(ctx context.Context, sig syscall.Signal) error {
	if err := e.dockerd.end(sig); err != nil {
		return err
	}
	return e.start(ctx)
}

// end ends both and what they have left mounted.
func (e *Engine) end() error {
	err := errors.Join(e.dockerd.end(syscall.SIGTERM), e.runtime.end(syscall.SIGTERM), e.log.Close())
	mounts, merr := os.ReadFile("/proc/self/mounts")
	lines := slices.Collect(strings.Lines(string(mounts)))
	for _, line := range slices.Backward(lines) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], e.dir+"/") {
			merr = errors.Join(merr, syscall.Unmount(f[1], 0))
		}
	}
	return errors.Join(err, merr)
}

// Stop removes every container and ends the engine.
func (e *Engine) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ids, err := e.Containers(ctx)
	for _, id := range ids {
		err = errors.Join(err, e.Do(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil))
	}
	return errors.Join(err, e.end())
}

// Containers are the ids of all, in every state.
func (e *Engine) Containers(ctx context.Context) ([]string, error) {
	var all []struct{ Id string } //nolint:revive // the engine's spelling
	if err := e.Do(ctx, http.MethodGet, "/containers/json?all=1", nil, &all); err != nil {
		return nil, err
	}
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.Id
	}
	return ids, nil
}

// Do makes one request. A string or a reader is sent as a tar stream, anything
// else as JSON; into may be nil.
func (e *Engine) Do(ctx context.Context, method, target string, body, into any) error {
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r, kind = b, "application/x-tar"
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.41"+target, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.Socket())
	}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, target, resp.Status, bytes.TrimSpace(data))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}

// importImage makes Image.
func (e *Engine) importImage(ctx context.Context) error {
	root, err := Busybox(ctx)
	if err != nil {
		return err
	}
	repo, tag, _ := strings.Cut(Image, ":")
	return e.Do(ctx, http.MethodPost, "/images/create?fromSrc=-&repo="+url.QueryEscape(repo)+"&tag="+tag, bytes.NewReader(root), nil)
}

// Busybox is a root file system as a tar: Debian's busybox-static and a link
// for each of its applets.
func Busybox(ctx context.Context) ([]byte, error) {
	program, err := exec.LookPath("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("testdocker: %w (make setup installs busybox-static)", err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content []byte) {
		if err == nil {
			h.Size = int64(len(content))
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "tmp/", "home/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, data)
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	if err == nil {
		err = w.Close()
	}
	return buf.Bytes(), err
}
