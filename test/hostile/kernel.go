package hostile

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// kernel: of the host's kernel a step gets what programs need.
func kernel() []Row {
	return []Row{
		{ID: "H14", Name: "what its processes are", Short: true, Script: `
			for t in /proc/$$/task/*/status; do
				grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' $t | grep -v -E '\s0000000000000000$'
				grep -q -E '^NoNewPrivs:\s1$' $t && grep -q -E '^Seccomp:\s2$' $t || echo BROKEN $t
			done
			for f in /proc/$$/fd/*; do if [ -d $f ]; then echo BROKEN $f; fi; done; echo end`, Out: "end\n", Host: true},
		{ID: "H25", Name: "calls with power over the kernel", Short: true, Probe: true, Script: "./probe calls", Out: "end\n", Host: true,
			Control: `[ "$("$PROBE" calls | wc -l)" -ge 5 ]`},
		{ID: "H25", Name: "every number of a call, 386 and x32", Probe: true, Script: "./probe numbers", Look: allowedNumbers, Host: true,
			Flags: []string{"--timeout", "120s"}},
		{ID: "H26", Name: "every sort of socket", Short: true, Probe: true, Script: "./probe families", Look: allowedFamilies,
			Control: `"$PROBE" families | grep -q '^17 '`},
	}
}

// Those two are the kernel's own, made by what it writes into a program that
// somebody traces. It lets them past every filter, and does nothing for others.
const uretprobe, uprobe = 335, 336

// allowedNumbers compares with the calls that the policy's own test lists.
func allowedNumbers(out, _ string) string {
	raw, err := os.ReadFile("../../plugins/seccomp/testdata/allowed-amd64.txt")
	if err != nil {
		return err.Error()
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return err.Error()
	}
	allowed := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		allowed[name] = true
	}
	var went []string
	lines := strings.Fields(out)
	if len(lines) < 100 || lines[len(lines)-1] != "end" {
		return fmt.Sprintf("the probe did not come to its end: %.200q", out)
	}
	for _, line := range lines[:len(lines)-1] {
		nr, err := strconv.Atoi(line)
		if nr == uretprobe || nr == uprobe {
			continue
		}
		if name := info.SyscallNumbers[nr]; err != nil || !allowed[name] {
			went = append(went, line+" "+name)
		}
	}
	if len(went) > 0 {
		return fmt.Sprintf("went through: %v", went)
	}
	return ""
}

// allowedFamilies are UNIX, TCP, UDP, and of netlink the one for routes.
func allowedFamilies(out, _ string) string {
	const unix, inet, netlink, inet6, raw, packet = 1, 2, 16, 10, 3, 10
	var went []string
	seen := map[int]bool{}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if lines[len(lines)-1] != "end" {
		return fmt.Sprintf("the probe did not come to its end: %.200q", out)
	}
	for _, line := range lines[:len(lines)-1] {
		var family, kind, proto int
		if _, err := fmt.Sscan(line, &family, &kind, &proto); err != nil {
			return fmt.Sprintf("%q: %v", line, err)
		}
		seen[family] = true
		switch {
		case family == unix:
		case (family == inet || family == inet6) && kind != raw && kind != packet:
		case family == netlink && proto == 0:
		default:
			went = append(went, line)
		}
	}
	if len(went) > 0 || !seen[unix] {
		slices.Sort(went)
		return fmt.Sprintf("went through: %v; UNIX %v", went, seen[unix])
	}
	return ""
}
