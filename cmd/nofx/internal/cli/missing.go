package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/cmd/nofx/internal/render"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// tellMissing says what of the artifacts that were asked for did not come: what
// the step did not leave, and what the worker did not take, for its size or
// its number.
func (a *app) tellMissing(ctx context.Context, client *server, detail wire.RunDetail, asked []string) {
	all := detail.Artifacts
	if len(asked) == 0 {
		return
	}
	if v := detail.Steps[0].Verdict; v == nil || v.Cause != step.CauseExit {
		a.say("no artifacts: they are kept of a step that ends by its own exit")
		return
	}
	events, err := client.Timeline(ctx, detail.Run.ID)
	if err != nil { // what is there was saved; only the reasons are not known
		a.say("why an artifact is missing: %s", render.Clean(err.Error()))
	}
	for _, name := range asked {
		rel := below(name)
		if why := reason(events, rel); why != "" {
			a.say("artifact %s: %s", render.Clean(name), why)
			continue
		}
		if !slices.ContainsFunc(all, func(info wire.ArtifactInfo) bool { return info.Name == rel || strings.HasPrefix(info.Name, rel+"/") }) {
			a.say("artifact %s: the step left no such file", render.Clean(name))
		}
	}
}

// reason is why the worker did not take an artifact, or not all of it, as the
// last of its notes says.
func reason(events []step.Event, rel string) string {
	why := ""
	for _, e := range events {
		about, _ := e.Payload["payload"].(map[string]any)
		if path, _ := about["path"].(string); path != rel {
			continue
		}
		switch e.Payload["name"] {
		case "artifact.too_large":
			why = "too large to be kept"
		case "artifact.left_out":
			why = "not all of it was kept: too many files, too large together, or names that cannot be shown"
		case "artifact.missing":
			why = ""
		}
	}
	return why
}
