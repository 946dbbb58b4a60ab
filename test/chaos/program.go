package chaos

import (
	"fmt"
	"strings"
)

// Exit codes of a program that found what it should not.
const (
	noSpace = 28 // its workspace could not be written
	missing = 40 // what the step before it left is not there
)

// program is what a step runs.
type program struct {
	name  string
	beats int    // signs of life, a tenth of a second apart
	code  int    // it exits with
	once  bool   // it exits with 7 the first time, and well later
	hang  bool   // it does not end
	bulk  int    // bytes of output besides
	reads string // the step whose file must be in the workspace
	keeps string // the content of its artifact
}

// text is a script for bash. Its signs of life are those that package invariant
// reads.
func (p program) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, `x=$(cat /proc/sys/kernel/random/uuid)
say() { read -r up idle </proc/uptime; echo "%[1]s $x $1 $up" >>/workspace/effects || exit %[2]d; }
say begin
`, p.name, noSpace)
	if p.reads != "" {
		fmt.Fprintf(&b, "[ \"$(cat /workspace/left-%[1]s)\" = %[1]s ] || exit %d\n", p.reads, missing)
	}
	if p.bulk > 0 {
		fmt.Fprintf(&b, "head -c %d /dev/zero | tr '\\0' b; echo\n", p.bulk)
	}
	fmt.Fprintf(&b, `i=0; while [ $i -lt %d ]; do say beat; echo "%s line $i"; i=$((i+1)); sleep 0.1; done
echo %[2]s >/workspace/left-%[2]s || exit %[3]d
`, p.beats, p.name, noSpace)
	if p.hang {
		b.WriteString("sleep 600\n")
	}
	if p.once {
		fmt.Fprintf(&b, "if [ ! -e /workspace/seen-%[1]s ]; then : >/workspace/seen-%[1]s || exit %[2]d; say end; exit 7; fi\n", p.name, noSpace)
	}
	if p.keeps != "" {
		fmt.Fprintf(&b, "printf '%%s' '%s' >/workspace/kept-%s || exit %d\n", p.keeps, p.name, noSpace)
	}
	fmt.Fprintf(&b, "say end\nexit %d\n", p.code)
	return b.String()
}

// output is what it writes up to its end.
func (p program) output() string {
	var b strings.Builder
	if p.bulk > 0 {
		b.WriteString(strings.Repeat("b", p.bulk) + "\n")
	}
	for i := range p.beats {
		fmt.Fprintf(&b, "%s line %d\n", p.name, i)
	}
	return b.String()
}
