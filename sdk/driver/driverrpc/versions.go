package driverrpc

import (
	"regexp"
	"strconv"
	"strings"

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

// Plugins gives what a host (d nil) or a plugin (serving d) can speak: these of
// the Versions, all if none is named. The two sides settle on the newest that
// both have.
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

// go-plugin says in words alone that the two sides have no version in common.
// A plugin then names the oldest of its own.
var noCommonVersion = regexp.MustCompile(`^incompatible API version with plugin\. Plugin version: (\d+)`)

// Incompatible makes an error that names the versions of both sides of err, an
// error of go-plugin's client that offers these versions in somebody's name;
// nil if err is another.
func Incompatible(err error, who string, versions ...int) error {
	if err == nil {
		return nil
	}
	m := noCommonVersion.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	if len(versions) == 0 {
		versions = Versions()
	}
	ours := make([]string, len(versions))
	for i, v := range versions {
		ours[i] = strconv.Itoa(v)
	}
	return step.Errorf(step.KindUnsupported, "protocol version: the plugin speaks %s, %s %s", m[1], who, strings.Join(ours, " and "))
}
