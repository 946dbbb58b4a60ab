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

	// Without one of these, what takes it is not judged.

	// Spin keeps a processor busy for d by the clock on the wall, and then says
	// "WORK WALL CPU\n": how often it went round, and the milliseconds that
	// passed and those of processor time that it had.
	Spin func(d time.Duration) []string
	// Transfer writes that much to a file and reads it back, both past the
	// host's cache, and then says "DEVICE WRITE READ\n": what the file lies on,
	// as df names it, and the milliseconds that each took. It fails where that
	// cannot be done.
	Transfer func(path string, mib int64) []string
	// Call connects to a TCP port and writes the first line that it is told. It
	// exits with 1 if there is none within 10 s, and with 125 if it cannot try.
	Call     func(host, port string) []string
	Terminal []string // "ROWS COLS\n" of the terminal that its stdout is, or "none\n"
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
		Spin: func(d time.Duration) []string {
			return sh(now+spin, strconv.FormatInt(d.Milliseconds()/10, 10))
		},
		Transfer: func(path string, mib int64) []string {
			return sh(now+transfer, path, strconv.FormatInt(mib, 10))
		},
		Call:     func(host, port string) []string { return sh(call, host, port) },
		Terminal: sh(`if [ -t 1 ]; then stty size <&1; else echo none; fi`),
	}
}

// now sets up to the hundredths of a second that the host is up, which may be
// less than one and has no zeros in front: they would make it octal.
const now = `set -e; now() { read -r up _ </proc/uptime; up=${up%.*}${up#*.}; up=${up#0}; up=${up#0}; }; now; begin=$up; `

// spin reads what time it had in the kernel's account of it, in ticks of 10 ms.
const spin = `end=$((begin + $1)); n=0
while [ $up -lt $end ]; do
	i=0; while [ $i -lt 500 ]; do i=$((i+1)); done
	n=$((n+1)); now
done
read -r stat </proc/self/stat; set -- ${stat##*) }
echo $n $(((up-begin)*10)) $(((${12}+${13})*10))`

const transfer = `dd if=/dev/zero of="$1" bs=1048576 count=$2 oflag=direct; now; mid=$up
dd if="$1" of=/dev/null bs=1048576 iflag=direct; now
dev=$(df -P "$1" | tail -n 1); echo "${dev%% *}" $(((mid-begin)*10)) $(((up-mid)*10))`

// call takes whatever there is that can connect.
const call = `if command -v bash >/dev/null; then
	said=$(timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1" && head -n 1 <&3' "$1" "$2")
elif command -v nc >/dev/null; then
	said=$(timeout 10 nc "$1" "$2" </dev/null | head -n 1)
elif command -v python3 >/dev/null; then
	said=$(timeout 10 python3 -c 'import socket, sys; print(socket.create_connection(sys.argv[1:]).makefile().readline(), end="")' "$1" "$2")
else
	echo "there is no bash, nc or python3 to connect with" >&2; exit 125
fi
[ -n "$said" ] || exit 1
printf '%s\n' "$said"`

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
		Spin:     func(d time.Duration) []string { return mem("busy", seconds(d)) },
		Transfer: func(path string, mib int64) []string { return mem("transfer", path, strconv.FormatInt(mib, 10)) },
		Call:     func(host, port string) []string { return mem("call", host, port) },
		Terminal: mem("terminal"),
	}
}

// InMemoryNetwork is a network for package memdriver, in which every address
// has a server.
func InMemoryNetwork() Network {
	return Network{Servers: [2]string{"93.184.215.14:5000", "93.184.215.15:5000"}, Other: "93.184.215.14:5001", Private: "10.20.0.5:5432"}
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
