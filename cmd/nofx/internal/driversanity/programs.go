package driversanity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/driver/drivertest/suite"
)

// maxProgramsFile bounds the file, in bytes.
const maxProgramsFile = 1 << 20

// programsFile is the form of a file with programs: argument lists in which
// {words} are replaced.
type programsFile struct {
	Exit     []string `json:"exit"`     // {code}
	Die      []string `json:"die"`      // {signal}, like SIGSEGV
	Print    []string `json:"print"`    // {stdout} {stderr}
	Cat      []string `json:"cat"`      //
	Env      []string `json:"env"`      //
	Pwd      []string `json:"pwd"`      //
	Read     []string `json:"read"`     // {path}
	Append   []string `json:"append"`   // {path} {text}
	Wait     []string `json:"wait"`     // {seconds}
	Stubborn []string `json:"stubborn"` //
	Count    []string `json:"count"`    // {n} {seconds}
	Flood    []string `json:"flood"`    // {bytes}
	Daemon   []string `json:"daemon"`   // {path}
	Alloc    []string `json:"alloc"`    // {mib}
	Fork     []string `json:"fork"`     // {n}
	Fill     []string `json:"fill"`     // {path} {mib}

	// What is missing of these is not judged.
	Spin     []string `json:"spin"`     // {seconds}
	Transfer []string `json:"transfer"` // {path} {mib}
	Call     []string `json:"call"`     // {host} {port}
	Terminal []string `json:"terminal"` //
}

// Programs are the argument lists of what sandboxes run.
type Programs = suite.Programs

// FindPrograms finds the programs of that name: shell, memory, or a file.
func FindPrograms(name string) (Programs, error) {
	switch name {
	case "shell":
		return suite.Shell(), nil
	case "memory":
		return suite.InMemory(), nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return Programs{}, fmt.Errorf("programs are shell, memory or a file: %w", err)
	}
	if st.Size() > maxProgramsFile {
		return Programs{}, fmt.Errorf("%s has more than %d bytes", name, maxProgramsFile)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return Programs{}, err
	}
	var f programsFile
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Programs{}, fmt.Errorf("%s: %w", name, err)
	}
	for what, argv := range map[string][]string{
		"exit": f.Exit, "die": f.Die, "print": f.Print, "cat": f.Cat, "env": f.Env, "pwd": f.Pwd, "read": f.Read, "append": f.Append,
		"wait": f.Wait, "stubborn": f.Stubborn, "count": f.Count, "flood": f.Flood, "daemon": f.Daemon, "alloc": f.Alloc, "fork": f.Fork, "fill": f.Fill,
	} {
		if len(argv) == 0 {
			return Programs{}, fmt.Errorf("%s: %s is missing", name, what)
		}
	}
	return f.programs(), nil
}

func (f programsFile) programs() Programs {
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
	mib := func(n int64) string { return strconv.FormatInt(n, 10) }
	p := suite.Programs{
		Exit:     func(code int) []string { return fill(f.Exit, "code", strconv.Itoa(code)) },
		Die:      func(signal string) []string { return fill(f.Die, "signal", signal) },
		Print:    func(stdout, stderr string) []string { return fill(f.Print, "stdout", stdout, "stderr", stderr) },
		Cat:      f.Cat,
		Env:      f.Env,
		Pwd:      f.Pwd,
		Read:     func(path string) []string { return fill(f.Read, "path", path) },
		Append:   func(path, text string) []string { return fill(f.Append, "path", path, "text", text) },
		Wait:     func(d time.Duration) []string { return fill(f.Wait, "seconds", seconds(d)) },
		Stubborn: f.Stubborn,
		Count: func(n int, every time.Duration) []string {
			return fill(f.Count, "n", strconv.Itoa(n), "seconds", seconds(every))
		},
		Flood:    func(n int64) []string { return fill(f.Flood, "bytes", strconv.FormatInt(n, 10)) },
		Daemon:   func(path string) []string { return fill(f.Daemon, "path", path) },
		Alloc:    func(n int64) []string { return fill(f.Alloc, "mib", mib(n)) },
		Fork:     func(n int) []string { return fill(f.Fork, "n", strconv.Itoa(n)) },
		Fill:     func(path string, n int64) []string { return fill(f.Fill, "path", path, "mib", mib(n)) },
		Terminal: f.Terminal,
	}
	if len(f.Spin) > 0 {
		p.Spin = func(d time.Duration) []string { return fill(f.Spin, "seconds", seconds(d)) }
	}
	if len(f.Transfer) > 0 {
		p.Transfer = func(path string, n int64) []string { return fill(f.Transfer, "path", path, "mib", mib(n)) }
	}
	if len(f.Call) > 0 {
		p.Call = func(host, port string) []string { return fill(f.Call, "host", host, "port", port) }
	}
	return p
}

// InMemoryNetwork is what the programs called memory can call.
func InMemoryNetwork(suite.T) suite.Network { return suite.InMemoryNetwork() }

// Reaching is a network of which two servers are known, ADDRESS:PORT.
func Reaching(servers []string) (func(suite.T) suite.Network, error) {
	if len(servers) != 2 || servers[0] == servers[1] {
		return nil, errors.New("two different servers are needed")
	}
	for _, s := range servers {
		if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 {
			return nil, fmt.Errorf("%q is not ADDRESS:PORT", s)
		}
	}
	return func(suite.T) suite.Network { return suite.Network{Servers: [2]string(servers)} }, nil
}

// fill replaces {words} in an argument list.
func fill(argv []string, pairs ...string) []string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "{" + pairs[i] + "}"
	}
	r := strings.NewReplacer(pairs...)
	out := slices.Clone(argv)
	for i, a := range out {
		out[i] = r.Replace(a)
	}
	return out
}
