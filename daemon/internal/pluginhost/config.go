// Package pluginhost runs the driver plugins of a daemon: one process a driver,
// started, configured, watched and restarted here, reached through a proxy that
// outlives the processes.
//
// A plugin is trusted to do its work but not to behave: it may hang, flood its
// stderr, crash at once or answer nonsense, and neither the host nor another
// plugin notices more than that its driver is not healthy.
//
// # How a plugin runs
//
//   - Its executable is hashed and, unless AllowUnsigned, compared with the
//     signed manifest; what was hashed is what is executed.
//   - It gets a small environment of its own and nothing of the host's, a
//     working folder with its socket, and mutual TLS with keys of this start.
//   - The two settle on the newest protocol version that both speak. A plugin
//     that has none of the host's is refused, with both sides' versions named.
//   - Place may put it into a control group.
//   - Its configuration is checked against its own JSON Schema first.
//   - Its health stream is its heartbeat: silent for Timeouts.Health, it is
//     killed. Each call has a deadline.
//   - When its file changes, a process of the new one is started beside it. If
//     that one is good, it gets all new calls, and the old one a moment for its
//     own; a stream that is cut goes on with Recover and Attach. If not, the old
//     one stays.
//   - A new configuration is given to the running process; one that it refuses
//     changes nothing.
//   - When it dies it is started again, the first time at once, then with
//     growing pauses; after QuarantineAfter deaths in a row it is left alone
//     until its file changes or QuarantineFor has passed. Of two deaths under
//     one call, made again on the next process, the first counts.
//   - When the host ends it is asked to end, then killed. When the host was
//     killed, the plugin ends by itself; one that does not is found by its
//     record and killed by the next host.
package pluginhost

import (
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"github.com/nofx-run/nofx/internal/pluginmanifest"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// Config says what to run and how.
type Config struct {
	// Dir holds the plugins, executables named nofx-driver-<name>.
	Dir string
	// SocketDir is the host's own folder, made with mode 0700: sockets, and a
	// record of each running plugin. Two hosts cannot share one.
	SocketDir string
	// PidDir gets a file nofx-driver-<name>.pid while the plugin runs; "" = none.
	PidDir string
	// Configs are the drivers' configurations by name, null = {}. A plugin
	// without one is listed and not started.
	Configs map[string]json.RawMessage
	// AllowUnsigned runs plugins that no manifest vouches for.
	AllowUnsigned bool
	// ManifestKey verifies the signed manifest in Dir. It must not come from Dir.
	ManifestKey pluginmanifest.PublicKey
	// Protocols are the versions of the driver protocol that are offered to
	// plugins, of driverrpc.Versions; nil = all of those. A plugin that has none
	// of them is refused.
	Protocols []int
	// Env is added to the plugins' small environment, as NAME=VALUE.
	Env []string
	// Place is called with each new process before it is spoken to; an error
	// ends the process. nil = it stays where the host is.
	Place func(name string, pid int) error
	// Observer hears what becomes of the plugins; nil = nobody does.
	Observer Observer
	// Log gets the host's and the plugins' records; nil = slog.Default().
	Log *slog.Logger

	Timeouts Timeouts

	// QuarantineAfter is how often a plugin may die in a row, 0 = 5, and
	// QuarantineFor how long it is then left alone, 0 = 10 min.
	QuarantineAfter int
	QuarantineFor   time.Duration
}

// Timeouts bound what is waited for; 0 = the value in the comment.
type Timeouts struct {
	Start  time.Duration // 30 s: until a new process can be spoken to and is configured
	Call   time.Duration // 60 s: one call without bulk data
	Copy   time.Duration // 30 min: CopyIn, CopyOut
	Health time.Duration // 35 s: between two health messages
	Wait   time.Duration // 10 s: a call's wait for a plugin that is restarting
	Stop   time.Duration // 5 s: between asking a plugin to end and killing it
	Mercy  time.Duration // 10 s: for a process that was killed to be gone
	Drain  time.Duration // 10 s: for the calls of a process whose place another took
	Look   time.Duration // 5 s: between two looks at a running plugin's file
	Stable time.Duration // 60 s: a process that ran longer starts with a clean record
}

// Restart pauses: the second restart in a row waits about the first of these,
// each later one half as long again, up to the second.
const (
	firstPause = 250 * time.Millisecond
	maxPause   = 30 * time.Second
)

// withDefaults fills what is open and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.SocketDir == "" {
		return c, step.Errorf(step.KindInvalid, "plugin host: Dir and SocketDir are needed")
	}
	if !c.AllowUnsigned && c.ManifestKey.IsZero() {
		return c, step.Errorf(step.KindInvalid, "plugin host: without a manifest key, unsigned plugins must be allowed")
	}
	for _, v := range c.Protocols {
		if !slices.Contains(driverrpc.Versions(), v) {
			return c, step.Errorf(step.KindInvalid, "plugin host: there is no protocol version %d", v)
		}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	t := &c.Timeouts
	def(&t.Start, 30*time.Second)
	def(&t.Call, time.Minute)
	def(&t.Copy, 30*time.Minute)
	def(&t.Health, 35*time.Second)
	def(&t.Wait, 10*time.Second)
	def(&t.Stop, 5*time.Second)
	def(&t.Mercy, 10*time.Second)
	def(&t.Drain, 10*time.Second)
	def(&t.Look, 5*time.Second)
	def(&t.Stable, time.Minute)
	def(&c.QuarantineFor, 10*time.Minute)
	if c.QuarantineAfter <= 0 {
		c.QuarantineAfter = 5
	}
	return c, nil
}
