package driverrpc

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	plugin "github.com/hashicorp/go-plugin"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// ProtocolVersion is the newest version of the driver protocol that this
// package speaks. It speaks the one before as well.
const ProtocolVersion = 2

// versionMetrics is the first that has the call Metrics.
const versionMetrics = 2

// Versions are those that this package speaks, the oldest first.
func Versions() []int { return []int{ProtocolVersion - 1, ProtocolVersion} }

// Plugins gives what a plugin that serves d can speak: these versions, the
// Versions if none is named. It and its host settle on the newest that both have.
func Plugins(d driver.Driver, versions ...int) map[int]plugin.PluginSet {
	if len(versions) == 0 {
		versions = Versions()
	}
	sets := map[int]plugin.PluginSet{}
	for _, v := range versions {
		sets[v] = plugin.PluginSet{PluginName: &grpcPlugin{driver: d, version: v, versions: versions}}
	}
	return sets
}

// A host's go-plugin client takes any version up to maxAnswer that a plugin
// answers with: one that has none of the host's is to be asked which it has.
const maxAnswer = 99

// Answers gives what a host's go-plugin client takes. What it offers is for
// Offer to say, and whether the answer is good for Refusal.
func Answers() map[int]plugin.PluginSet {
	sets := map[int]plugin.PluginSet{}
	for v := range maxAnswer + 1 {
		sets[v] = plugin.PluginSet{PluginName: &grpcPlugin{version: v}}
	}
	return sets
}

// envVersions is go-plugin's variable with the versions that a host offers.
const envVersions = "PLUGIN_PROTOCOL_VERSIONS="

// Offer gives a plugin's environment, made by go-plugin's client, in which these
// versions are the host's; the Versions if none is named.
func Offer(env []string, versions ...int) []string {
	if len(versions) == 0 {
		versions = Versions()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, envVersions) })
	return append(env, envVersions+strings.Join(digits(versions), ","))
}

// describing is how long a plugin that is refused may take to describe itself.
const describing = 5 * time.Second

// Refusal names the versions of both sides when a plugin answered with one that
// was not offered, in somebody's name; nil when it was offered, or nothing was
// answered. The plugin's are those of its description, which is the one call
// made of it: a version only adds to those before. With c nil, or when it does
// not describe itself, that of the answer alone is named.
func Refusal(ctx context.Context, answer int, c *Client, who string, versions ...int) error {
	if len(versions) == 0 {
		versions = Versions()
	}
	if c == nil && answer == 0 || slices.Contains(versions, answer) {
		return nil
	}
	theirs := []int{answer}
	if c != nil {
		ctx, cancel := context.WithTimeout(ctx, describing)
		defer cancel()
		if d, err := c.Describe(ctx); err == nil && believable(d.ProtocolVersions, answer, versions) {
			theirs = slices.Compact(slices.Sorted(slices.Values(d.ProtocolVersions)))
		}
	}
	return step.Errorf(step.KindUnsupported, "protocol version: the plugin speaks %s, %s %s", list(theirs), who, list(versions))
}

// believable reports whether a plugin that gave this answer to these versions
// may have those that it says it has.
func believable(says []int, answer int, offered []int) bool {
	return len(says) <= maxAnswer && slices.Contains(says, answer) &&
		!slices.ContainsFunc(says, func(v int) bool { return v < 0 || slices.Contains(offered, v) })
}

func list(versions []int) string {
	all := digits(versions)
	last := len(all) - 1
	if last == 0 {
		return all[0]
	}
	return strings.Join(all[:last], ", ") + " and " + all[last]
}

func digits(versions []int) []string {
	all := make([]string, len(versions))
	for i, v := range versions {
		all[i] = strconv.Itoa(v)
	}
	return all
}
