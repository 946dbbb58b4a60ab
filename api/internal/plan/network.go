package plan

import (
	"fmt"
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	maxAllow = 256 // entries in a step's list, and rules that they stand for
)

// network checks the step's network and whom it may call.
func (c compiler) network(at string, in wire.PlanStep, out *Step) {
	out.Network = in.Network
	switch in.Network {
	case "":
		out.Network = step.NetworkNone
	case step.NetworkNone, step.NetworkOpen:
	case step.NetworkAllow:
		if len(in.NetworkAllow) == 0 {
			c.add(at+".network_allow", nil, "network allow needs a list of whom the step may call: rules such as api.example.com:443, or presets (%s)", c.presets.names())
		}
	default:
		c.add(at+".network", string(in.Network), "must be none, allow or open")
	}
	if in.Network != step.NetworkAllow && len(in.NetworkAllow) > 0 {
		c.add(at+".network_allow", nil, "goes with network allow only")
		return
	}
	out.NetworkAllow = c.allow(at+".network_allow", in.NetworkAllow)
}

// allow turns the entries into rules, each there once.
func (c compiler) allow(at string, entries []string) []string {
	if len(entries) > maxAllow {
		c.add(at, len(entries), "at most %d", maxAllow)
		return nil
	}
	var out []string
	add := func(rule string) {
		if !slices.Contains(out, rule) {
			out = append(out, rule)
		}
	}
	for i, entry := range entries {
		where := fmt.Sprintf("%s[%d]", at, i)
		if rules, known := c.presets[entry]; known {
			for _, r := range rules {
				add(r)
			}
			continue
		}
		if presetName.MatchString(entry) {
			c.add(where, entry, "is neither a preset (%s) nor a rule, which has a full domain or an address", c.presets.names())
			continue
		}
		r, err := step.ParseRule(entry)
		if err != nil {
			c.add(where, entry, "%v", err)
			continue
		}
		add(r.String())
	}
	if len(out) > maxAllow {
		c.add(at, len(out), "at most %d rules", maxAllow)
	}
	return out
}
