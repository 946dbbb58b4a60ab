// Package posture looks at what a process may do and see, from inside of its
// sandbox and from outside, in a form that can be compared with a committed
// one: what differs from host to host is named or left out, and nothing else.
package posture

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Raw is what the kernel says of a process, by the names of the files below
// its /proc: status/TID for each thread, mountinfo and so on; "fd" and "ns"
// have a line for each, and prctl/TID what only a thread itself can ask.
type Raw map[string]string

//go:embed testdata/probe.c
var probe []byte

// Build makes the probe, a static program, at path.
func Build(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "gcc", "-static", "-pthread", "-O1", "-w", "-x", "c", "-o", path, "-")
	cmd.Stdin = strings.NewReader(string(probe))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the probe: %w: %s", err, out)
	}
	return nil
}

const maxSection = 1 << 20

// Parse reads what the probe writes. io.ErrUnexpectedEOF is the error of
// output that is not complete yet.
func Parse(r io.Reader) (Raw, error) {
	in := bufio.NewReader(r)
	raw := Raw{}
	for {
		head, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		name, size, _ := strings.Cut(strings.TrimSpace(head), " ")
		n, err := strconv.Atoi(size)
		if err != nil || n < 0 || n > maxSection {
			return nil, fmt.Errorf("not a section: %.100q", head)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(in, data); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		if name == "end" {
			return raw, nil
		}
		raw[name] = string(data)
	}
}

// Outside looks at a process of the host.
func Outside(pid int) (Raw, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	raw := Raw{}
	for _, name := range []string{"mountinfo", "limits", "uid_map", "gid_map", "setgroups", "oom_score_adj", "stat"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		raw[name] = string(data)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "stat"), &st); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	raw["owner"] = strconv.FormatUint(uint64(st.Uid), 10)
	tasks, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		data, err := os.ReadFile(filepath.Join(dir, "task", t.Name(), "status"))
		if err != nil {
			return nil, err
		}
		raw["status/"+t.Name()] = string(data)
	}
	if raw["ns"], err = links(filepath.Join(dir, "ns")); err != nil {
		return nil, err
	}
	raw["fd"], err = descriptors(dir)
	return raw, err
}

// links gives each link of a folder with its target.
func links(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %s\n", e.Name(), target)
	}
	return b.String(), nil
}

// descriptors tells of each what the probe tells of its own.
func descriptors(dir string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(dir, "fd", e.Name()), &st)
		if errors.Is(err, unix.ENOENT) {
			continue // closed meanwhile, as the one that reads this folder
		}
		if err != nil {
			return "", fmt.Errorf("descriptor %s: %w", e.Name(), err)
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name()))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", err
		}
		flags, err := strconv.ParseInt(fields(string(info))["flags"], 8, 64)
		if err != nil {
			return "", fmt.Errorf("descriptor %s: %w", e.Name(), err)
		}
		fmt.Fprintf(&b, "%s %s %s\n", e.Name(), kind(&st), map[int64]string{0: "r", 1: "w", 2: "rw"}[flags&syscall.O_ACCMODE])
	}
	return b.String(), nil
}

func kind(st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "folder"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFCHR:
		return fmt.Sprintf("char:%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return "anonymous"
}

// Find gives the pid on the host of a process in the pid namespace of raw: of
// PID 1, or with "" of the process itself.
func (raw Raw) Find(pid string) (int, error) {
	ns := lines(raw["ns"])["pid"]
	if pid == "" {
		pid = fields(raw.main())["Pid"]
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if at, err := os.Readlink(p + "/ns/pid"); err != nil || at != ns {
			continue
		}
		status, err := os.ReadFile(p + "/status")
		if err != nil {
			continue
		}
		if all := strings.Fields(fields(string(status))["NSpid"]); len(all) > 0 && all[len(all)-1] == pid {
			return strconv.Atoi(filepath.Base(p))
		}
	}
	return 0, fmt.Errorf("no process on this host is pid %s in %s", pid, ns)
}

// main is the status of the first thread.
func (raw Raw) main() string {
	for name, text := range raw {
		if f := fields(text); strings.HasPrefix(name, "status/") && f["Tgid"] == f["Pid"] {
			return text
		}
	}
	return ""
}

// fields reads lines like "Name:  value".
func fields(text string) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			got[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return got
}

// lines reads lines like "name value".
func lines(text string) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			got[k] = v
		}
	}
	return got
}
