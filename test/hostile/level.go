package hostile

import (
	"slices"
	"strings"
)

// level is what keeps a step from the host: a driver, and what isolation is
// demanded of it, "" = its default.
type level struct{ driver, isolation string }

func (l level) String() string { return strings.TrimSuffix(l.driver+" "+l.isolation, " ") }

func (l level) flags() []string {
	flags := []string{"--driver", l.driver}
	if l.isolation != "" {
		flags = append(flags, "--isolation", l.isolation)
	}
	return flags
}

// has reports whether the row is for that level. A container with a kernel of its
// own can have no network, so that the rows that ask for one have nothing to try
// there: the plan is refused.
func (l level) has(r Row) bool {
	if l == (level{"container", "gvisor"}) && slices.Contains(r.Flags, "--network") {
		return false
	}
	return (r.On == "" || r.On == l.driver) && (!r.Host || l.isolation != "gvisor")
}
