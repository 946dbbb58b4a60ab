package seccomp

import (
	"encoding/binary"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// emulator runs the compiled filter. The kernel's data are in the machine's
// byte order; package bpf reads them as a packet, in network order.
type emulator struct{ vm *bpf.VM }

func newEmulator(t *testing.T, p *policy) emulator {
	t.Helper()
	code, err := p.program()
	if err != nil {
		t.Fatal(err)
	}
	var prog []bpf.Instruction
	for i := 0; i < len(code); i += 8 {
		raw := bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(code[i:]), Jt: code[i+2], Jf: code[i+3], K: binary.NativeEndian.Uint32(code[i+4:]),
		}
		prog = append(prog, raw.Disassemble())
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return emulator{vm}
}

func (e emulator) run(t *testing.T, archID, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, nr)
	data = binary.BigEndian.AppendUint32(data, archID)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var v uint64
		if i < len(args) {
			v = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(v)) // little-endian words: the low one first
		data = binary.BigEndian.AppendUint32(data, uint32(v>>32))
	}
	n, err := e.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// The calls that a step may make are the ones of the golden file.
func TestAllowedCalls(t *testing.T) {
	t.Parallel()
	p, err := stepPolicy()
	if err != nil {
		t.Fatal(err)
	}
	info, err := arch.GetInfo("amd64")
	if err != nil {
		t.Fatal(err)
	}
	if uint32(info.ID) != p.arch {
		t.Skip("the golden file is for amd64")
	}
	e := newEmulator(t, p)
	var lines []string
	for nr, name := range info.SyscallNumbers {
		switch ret := e.run(t, p.arch, uint32(nr)); {
		case ret == retAllow && len(p.rules[nr]) > 0 && !slices.ContainsFunc(p.rules[nr], func(r rule) bool { return len(r) == 0 }):
			lines = append(lines, name+" (by its arguments)")
		case ret == retAllow:
			lines = append(lines, name)
		case ret != deny && ret != missing:
			t.Errorf("%s: the filter answers %#x", name, ret)
		case len(p.rules[nr]) > 0:
			lines = append(lines, name+" (by its arguments)")
		}
		if got, want := e.run(t, p.arch, uint32(nr)) == retAllow, p.allows(nr); got != want {
			t.Errorf("%s: the program says %v, the policy %v", name, got, want)
		}
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/allowed-amd64.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the allowed calls have changed; look at each, then run with -update.\n%s", got)
	}
}

func TestFilterArguments(t *testing.T) {
	t.Parallel()
	p, err := stepPolicy()
	if err != nil {
		t.Fatal(err)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	e := newEmulator(t, p)
	const high = 1 << 40 // the kernel takes 32 bits of these arguments: more must not deceive
	for _, c := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, retAllow},
		{"socket", []uint64{unix.AF_INET6, unix.SOCK_STREAM, 0}, retAllow},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, retAllow},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, deny},
		{"socket", []uint64{unix.AF_NETLINK | high, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, deny},
		{"socket", []uint64{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, deny},
		{"socket", []uint64{unix.AF_ALG, unix.SOCK_STREAM, 0}, deny},
		{"socket", []uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}, deny},
		{"socketpair", []uint64{unix.AF_UNIX}, retAllow},
		{"socketpair", []uint64{unix.AF_TIPC}, deny},
		{"clone", []uint64{uint64(unix.SIGCHLD)}, retAllow},
		{"clone", []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, deny},
		{"clone", []uint64{unix.CLONE_NEWNS}, deny},
		{"clone", []uint64{unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_SIGHAND}, retAllow},
		{"clone3", nil, missing},
		{"ioctl", []uint64{0, unix.TCGETS}, retAllow},
		{"ioctl", []uint64{0, unix.TIOCSTI}, deny},
		{"ioctl", []uint64{0, unix.TIOCSTI | high}, deny},
		{"ioctl", []uint64{0, tiocLinux}, deny},
		{"prlimit64", []uint64{0, unix.RLIMIT_NOFILE, 4096}, retAllow},
		{"prlimit64", []uint64{1, unix.RLIMIT_NOFILE, 0, 4096}, retAllow},
		{"prlimit64", []uint64{1, unix.RLIMIT_CPU, 4096}, deny},
		{"prlimit64", []uint64{1, unix.RLIMIT_CPU, high}, deny},
		{"personality", []uint64{0}, retAllow},
		{"personality", []uint64{0x0400000}, deny}, // READ_IMPLIES_EXEC
		{"mount", nil, deny}, {"unshare", nil, deny}, {"setns", nil, deny}, {"bpf", nil, deny}, {"io_uring_setup", nil, deny},
		{"keyctl", nil, deny}, {"add_key", nil, deny}, {"userfaultfd", nil, deny}, {"perf_event_open", nil, deny}, {"open_by_handle_at", nil, deny},
		{"kexec_load", nil, deny}, {"init_module", nil, deny}, {"reboot", nil, deny}, {"swapon", nil, deny}, {"settimeofday", nil, deny},
	} {
		nr, ok := info.SyscallNames[c.name]
		if !ok {
			t.Errorf("%s has no number", c.name)
			continue
		}
		if got := e.run(t, p.arch, uint32(nr), c.args...); got != c.want {
			t.Errorf("%s(%#x): %#x, want %#x", c.name, c.args, got, c.want)
		}
		if got := e.run(t, p.arch, uint32(nr)|x32Bit, c.args...); got != missing {
			t.Errorf("%s of x32: %#x", c.name, got)
		}
		if got := e.run(t, uint32(arch.I386.ID), uint32(nr), c.args...); got != missing {
			t.Errorf("%s of i386: %#x", c.name, got)
		}
	}
	for _, nr := range []uint32{uint32(p.last) + 1, 1 << 20, 1<<32 - 1, 1 << 31} {
		if got := e.run(t, p.arch, nr); got != missing {
			t.Errorf("call %d, which there is not: %#x", nr, got)
		}
	}
}
