package seccomp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What the kernel's filter returns; the low 16 bits of an error are its number.
const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
	deny     = retErrno | uint32(unix.EPERM)
	missing  = retErrno | uint32(unix.ENOSYS)
)

// x32Bit marks the calls of the x32 ABI on amd64.
const x32Bit = 0x40000000

// argument offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// match is one condition on an argument: value == arg & mask, or the opposite.
type match struct {
	arg         uint
	mask, value uint64
	not         bool
}

// rule allows a call when all of its conditions hold; none = always. A call
// with several rules is allowed when one of them allows it.
type rule []match

// policy says which calls are allowed. What it does not name is denied.
type policy struct {
	arch  uint32
	last  int            // highest number that is known: beyond, a call does not exist
	rules map[int][]rule // by number
	errno map[int]uint32 // other answers than EPERM
}

// stepPolicy is Moby's default profile for a process without capabilities,
// with the house's own rules for sockets and terminals in place of Moby's.
func stepPolicy() (*policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	p := &policy{arch: uint32(info.ID), rules: map[int][]rule{}, errno: map[int]uint32{}}
	for nr := range info.SyscallNumbers {
		p.last = max(p.last, nr)
	}
	for _, call := range profile.Syscalls {
		if slices.Contains(call.Names, "socket") {
			continue // own has other rules
		}
		r, err := ruleOf(call.Args)
		if err != nil {
			return nil, err
		}
		for _, name := range call.Names {
			nr, ok := info.SyscallNames[name]
			if !ok {
				continue // of another architecture
			}
			switch {
			case call.Action == specs.ActAllow:
				p.rules[nr] = append(p.rules[nr], r)
			case call.Action == specs.ActErrno && call.ErrnoRet != nil:
				p.errno[nr] = retErrno | uint32(*call.ErrnoRet&0xffff)
			}
		}
	}
	p.own(info.SyscallNames)
	return p, nil
}

// own replaces what is stricter here than in Moby's profile.
func (p *policy) own(nr map[string]int) {
	is := func(arg uint, value uint64) match { return match{arg: arg, mask: 1<<32 - 1, value: value} }
	p.rules[nr["socket"]] = []rule{
		{is(0, unix.AF_UNIX)}, {is(0, unix.AF_INET)}, {is(0, unix.AF_INET6)},
		{is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)},
	}
	p.rules[nr["socketpair"]] = []rule{{is(0, unix.AF_UNIX)}}
	p.rules[nr["ioctl"]] = []rule{{
		{arg: 1, mask: 1<<32 - 1, value: unix.TIOCSTI, not: true},
		{arg: 1, mask: 1<<32 - 1, value: tiocLinux, not: true},
	}}
	// A process may look at another's limits and change only its own: the
	// sandbox's root has the uid of PID 1 and could starve it.
	p.rules[nr["prlimit64"]] = []rule{
		{is(0, 0)}, {match{arg: 2, mask: 1<<64 - 1, value: 0}},
	}
	for _, name := range []string{
		"add_key", "bpf", "clone3", "fanotify_init", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl",
		"kexec_file_load", "kexec_load", "mount", "move_mount", "open_by_handle_at", "open_tree", "perf_event_open",
		"pivot_root", "request_key", "setns", "umount2", "unshare", "userfaultfd", "vhangup",
	} {
		if n, ok := nr[name]; ok {
			delete(p.rules, n)
		}
	}
	p.errno[nr["clone3"]] = missing // so that the C library uses clone, whose flags a filter can see
}

const tiocLinux = 0x541c

func ruleOf(args []specs.LinuxSeccompArg) (rule, error) {
	var r rule
	for _, a := range args {
		m := match{arg: a.Index, mask: 1<<64 - 1, value: a.Value}
		switch a.Op {
		case specs.OpEqualTo:
		case specs.OpNotEqual:
			m.not = true
		case specs.OpMaskedEqual:
			m.mask, m.value = a.Value, a.ValueTwo
		default:
			return nil, fmt.Errorf("seccomp: the profile compares with %s", a.Op)
		}
		r = append(r, m)
	}
	return r, nil
}

// span is a range of call numbers that are answered alike; rules only ever for
// a single number.
type span struct {
	from  int
	ret   uint32
	rules []rule
}

func (p *policy) spans() []span {
	var all []span
	for nr := 0; nr <= p.last; nr++ {
		s := span{from: nr, ret: deny}
		if e, ok := p.errno[nr]; ok {
			s.ret = e
		}
		if rules := p.rules[nr]; slices.ContainsFunc(rules, func(r rule) bool { return len(r) == 0 }) {
			s.ret = retAllow
		} else if len(rules) > 0 {
			s.rules = rules
		}
		if n := len(all); n == 0 || s.rules != nil || all[n-1].rules != nil || all[n-1].ret != s.ret {
			all = append(all, s)
		}
	}
	return append(all, span{from: p.last + 1, ret: missing})
}

// Step gives the filter of a step, in the encoding of the kernel that runs it.
func Step() ([]byte, error) {
	p, err := stepPolicy()
	if err != nil {
		return nil, err
	}
	return p.program()
}

// program compiles the policy. The numbers are searched by halving: the kernel
// runs the whole filter once for every call number when a step starts.
func (p *policy) program() ([]byte, error) {
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: p.arch, SkipTrue: 1},
		bpf.RetConstant{Val: missing}, // i386 and whatever else
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	// x32 numbers are beyond the last known one.
	if p.last >= x32Bit {
		return nil, fmt.Errorf("seccomp: call %d is of the x32 ABI", p.last)
	}
	spans := p.spans()
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	prog = append(prog, search(spans)...)
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	out := make([]byte, 0, 8*len(raw))
	for _, i := range raw {
		out = binary.NativeEndian.AppendUint16(out, i.Op)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out, nil
}

func search(spans []span) []bpf.Instruction {
	if len(spans) == 1 {
		return answer(spans[0])
	}
	half := len(spans) / 2
	low, high := search(spans[:half]), search(spans[half:])
	prog := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(spans[half].from), SkipFalse: 1},
		bpf.Jump{Skip: uint32(len(low))},
	}
	return append(append(prog, low...), high...)
}

func answer(s span) []bpf.Instruction {
	var prog []bpf.Instruction
	for _, r := range s.rules {
		prog = append(prog, r.compile()...)
	}
	return append(prog, bpf.RetConstant{Val: s.ret})
}

// compile gives code that allows when all conditions hold and else falls
// through to what follows.
func (r rule) compile() []bpf.Instruction {
	prog := []bpf.Instruction{bpf.RetConstant{Val: retAllow}}
	for _, m := range slices.Backward(r) {
		prog = append(m.compile(uint8(len(prog))), prog...)
	}
	return prog
}

// compile gives code that goes on when the condition holds and else skips the
// rest of its rule, of n instructions.
func (m match) compile(n uint8) []bpf.Instruction {
	word := func(high uint32, mask, value uint32, hit, miss uint8) []bpf.Instruction {
		prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offArgs + 8*uint32(m.arg) + high, Size: 4}}
		if mask != 1<<32-1 {
			prog = append(prog, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		}
		return append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: hit, SkipFalse: miss})
	}
	low, high := uint32(m.mask), uint32(m.mask>>32)
	vlow, vhigh := uint32(m.value), uint32(m.value>>32)
	if high == 0 {
		if m.not {
			return word(0, low, vlow, n, 0)
		}
		return word(0, low, vlow, 0, n)
	}
	if m.not { // equal in both words misses
		second := word(0, low, vlow, n, 0)
		return append(word(4, high, vhigh, 0, uint8(len(second))), second...)
	}
	second := word(0, low, vlow, 0, n)
	return append(word(4, high, vhigh, 0, n+uint8(len(second))), second...)
}

// allows tells what the compiled policy answers, for tests and documents.
func (p *policy) allows(nr int, args ...uint64) bool {
	for _, r := range p.rules[nr] {
		ok := true
		for _, m := range r {
			var v uint64
			if int(m.arg) < len(args) {
				v = args[m.arg]
			}
			ok = ok && (v&m.mask == m.value) != m.not
		}
		if ok {
			return true
		}
	}
	return false
}
