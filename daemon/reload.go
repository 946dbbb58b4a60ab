package daemon

import (
	"context"
	"reflect"
)

// Reload takes the drivers section of a new configuration while everything
// runs: changed ones are given to their plugins, new ones start theirs, plugins
// of removed ones are stopped. A section that its driver refuses stays as it
// was, region and all, and the error names driver and field; the others are
// taken. What is wrong with the file by itself takes none of it. Every other
// field needs a restart; those that differ are logged.
func (d *Daemon) Reload(ctx context.Context, cfg Config) error {
	if fields := d.cfg.differences(cfg); len(fields) > 0 {
		d.log.Warn("the configuration has changes that need a restart", "fields", fields)
	}
	configs, err := cfg.driverConfigs()
	if err != nil {
		return err
	}
	regions, err := cfg.driverRegions()
	if err != nil {
		return err
	}
	return d.plugins.Reload(ctx, configs, func(name string) { d.places.put(name, regions[name]) })
}

// differences names the fields of the file, drivers apart, in which two
// configurations differ.
func (c Config) differences(other Config) []string {
	var names []string
	a, b := reflect.ValueOf(c), reflect.ValueOf(other)
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get("yaml")
		if name != "drivers" && name != "-" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}
