package pluginhost

// Observer hears what becomes of the plugins, for metrics. Every method
// returns at once.
type Observer interface {
	// PluginStarted: a process was started, checked and configured.
	PluginStarted(driver string)
	// PluginDied: a process ended unasked, hung, or could not be started.
	PluginDied(driver string)
	// PluginRefused: a plugin was not run; reason is one word.
	PluginRefused(driver, reason string)
	// PluginState: whether the driver can take work, and whether it is
	// quarantined.
	PluginState(driver string, healthy, quarantined bool)
	// PluginGone: the driver is not run any more.
	PluginGone(driver string)
}

// unobserved is the Observer of a host without one.
type unobserved struct{}

func (unobserved) PluginStarted(string)           {}
func (unobserved) PluginDied(string)              {}
func (unobserved) PluginRefused(string, string)   {}
func (unobserved) PluginState(string, bool, bool) {}
func (unobserved) PluginGone(string)              {}
