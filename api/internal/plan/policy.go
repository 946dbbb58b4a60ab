package plan

import (
	"fmt"
	"slices"

	"github.com/nofx-run/nofx/sdk/wire"
)

// policy checks the lists of the step's policy. A tool that is not on a list
// of allowed tools does not make the plan invalid: the run is accepted and
// the step fails before anything starts, so that it is seen and audited.
func (c compiler) policy(at string, in *wire.PlanStep, out *Step) {
	for _, list := range []struct {
		name   string
		values []string
	}{{"tools_allowed", in.ToolsAllowed}, {"env_allowed", in.EnvAllowed}, {"secrets_scope", in.SecretsScope}} {
		if len(list.values) > maxPolicy {
			c.add(at+"."+list.name, len(list.values), "at most %d", maxPolicy)
		}
		for i, v := range list.values {
			if v == "" || len(v) > maxName || !oneLine(v) || list.name == "env_allowed" && !envName.MatchString(v) {
				c.add(fmt.Sprintf("%s.%s[%d]", at, list.name, i), v, "is not a name")
			}
		}
	}
	if len(in.SecretsScope) > 0 {
		c.add(at+".secrets_scope", in.SecretsScope[0], "secrets are not served yet, so a scope is refused")
	}
	if len(in.ToolsAllowed) > 0 && !slices.Contains(in.ToolsAllowed, in.Tool) {
		out.Denied = fmt.Sprintf("the tool %q is not in tools_allowed", in.Tool)
	}
}
