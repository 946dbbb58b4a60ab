package suite

import (
	"fmt"
	"strconv"
	"time"
)

// Programs are the argument lists of small programs, for whatever the sandbox
// can run. Those that wait write "ready\n" to stdout first.
type Programs struct {
	Exit     func(code int) []string
	Die      func(signal string) []string              // sends itself the signal, named like SIGSEGV
	Print    func(stdout, stderr string) []string      // writes exactly these
	Cat      []string                                  // stdin to stdout, until its end
	Env      []string                                  // its environment, a variable a line, in any order
	Pwd      []string                                  // its working folder and a newline
	Read     func(path string) []string                // a file to stdout
	Append   func(path, text string) []string          // adds text to a file
	Wait     func(d time.Duration) []string            // waits for d and exits with 0; dies of SIGTERM
	Stubborn []string                                  // ignores SIGTERM and waits for ever
	Count    func(n int, every time.Duration) []string // writes 1 to n, a line each, with pauses between
	Flood    func(n int64) []string                    // writes FloodBytes(n) at once
	// Daemon starts a process that leaves its session and its parent, and adds
	// a byte to the file at path every 100 ms or more often, for ever; then it
	// waits for ever itself.
	Daemon func(path string) []string
	Alloc  func(mib int64) []string              // takes that much memory at once
	Fork   func(n int) []string                  // has n processes at a time, and fails if it may not
	Fill   func(path string, mib int64) []string // writes that much to a file, and fails if it may not
}

// Shell gives programs for a sandbox with a POSIX shell and the usual tools:
// cat, env, seq, head, sleep with fractions, and setsid.
func Shell() Programs {
	sh := func(script string, args ...string) []string {
		return append([]string{"/bin/sh", "-c", script, "sh"}, args...)
	}
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
	return Programs{
		Exit:     func(code int) []string { return sh("exit $1", strconv.Itoa(code)) },
		Die:      func(signal string) []string { return sh("kill -${1#SIG} $$", signal) },
		Print:    func(stdout, stderr string) []string { return sh(`printf %s "$1"; printf %s "$2" >&2`, stdout, stderr) },
		Cat:      []string{"cat"},
		Env:      []string{"env"},
		Pwd:      sh("pwd -P"),
		Read:     func(path string) []string { return []string{"cat", path} },
		Append:   func(path, text string) []string { return sh(`printf %s "$2" >>"$1"`, path, text) },
		Wait:     func(d time.Duration) []string { return sh("echo ready; exec sleep $1", seconds(d)) },
		Stubborn: sh("trap '' TERM; echo ready; while :; do sleep 1; done"),
		Count: func(n int, every time.Duration) []string {
			return sh("i=1; while [ $i -le $1 ]; do echo $i; i=$((i+1)); sleep $2; done", strconv.Itoa(n), seconds(every))
		},
		Flood: func(n int64) []string { return sh("seq 1 999999999 | head -c $1", strconv.FormatInt(n, 10)) },
		Daemon: func(path string) []string {
			return sh(`(setsid sh -c 'while :; do printf . >>"$1"; sleep 0.05; done' sh "$1" </dev/null >/dev/null 2>&1 &); echo ready; exec sleep 1000000`, path)
		},
		// tail keeps what has no newline until it ends.
		Alloc: func(mib int64) []string {
			return sh("head -c $1 /dev/zero | tail | wc -c", strconv.FormatInt(mib<<20, 10))
		},
		Fork: func(n int) []string {
			return sh(`set -e; i=0; all=; while [ $i -lt $1 ]; do sleep 20 & all="$all $!"; i=$((i+1)); done; kill $all`, strconv.Itoa(n))
		},
		Fill: func(path string, mib int64) []string {
			return sh(`head -c $2 /dev/zero >"$1"`, path, strconv.FormatInt(mib<<20, 10))
		},
	}
}

// InMemory gives programs for package memdriver.
func InMemory() Programs {
	mem := func(args ...string) []string { return append([]string{"mem"}, args...) }
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
	return Programs{
		Exit:  func(code int) []string { return mem("exit", strconv.Itoa(code)) },
		Die:   func(signal string) []string { return mem("signal", signal) },
		Print: func(stdout, stderr string) []string { return mem("print", stdout, stderr) },
		Cat:   []string{"cat"},
		Env:   []string{"env"},
		Pwd:   []string{"pwd"},
		Read:  func(path string) []string { return []string{"cat", path} },
		Append: func(path, text string) []string {
			return []string{"sh", "-c", fmt.Sprintf("echo -n '%s' >> '%s'", text, path)}
		},
		Wait:     func(d time.Duration) []string { return mem("wait", seconds(d)) },
		Stubborn: mem("stubborn"),
		Count:    func(n int, every time.Duration) []string { return mem("count", strconv.Itoa(n), seconds(every)) },
		Flood:    func(n int64) []string { return mem("flood", strconv.FormatInt(n, 10)) },
		Daemon:   func(path string) []string { return mem("daemon", path) },
		Alloc:    func(mib int64) []string { return mem("alloc", strconv.FormatInt(mib, 10)) },
		Fork:     func(n int) []string { return mem("fork", strconv.Itoa(n)) },
		Fill:     func(path string, mib int64) []string { return mem("fill", path, strconv.FormatInt(mib, 10)) },
	}
}

// FloodBytes is what Flood writes: the decimal numbers from 1, a line each, cut
// off after n bytes.
func FloodBytes(n int64) []byte {
	buf := make([]byte, 0, n+24)
	for i := int64(1); int64(len(buf)) < n; i++ {
		buf = append(strconv.AppendInt(buf, i, 10), '\n')
	}
	return buf[:n]
}
