package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/nofx-run/nofx/daemon/internal/metrics"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// regionKey is the field of a driver's configuration that is the daemon's: where
// the driver's sandboxes are, when they are not on this host.
const regionKey = "region"

// driverRegions are those of the drivers that have one of their own.
func (c Config) driverRegions() (map[string]string, error) {
	out := map[string]string{}
	for name, v := range c.Drivers {
		fields, ok := v.(map[string]any)
		if !ok || fields[regionKey] == nil {
			continue
		}
		region, text := fields[regionKey].(string)
		switch {
		case !text || !step.ValidRegion(region):
			return nil, step.Errorf(step.KindInvalid, "configuration: drivers.%s.region: %.80s is not 1 to 63 of a-z, 0-9 and -, with no - first", name, fmt.Sprint(fields[regionKey]))
		case region != c.Region && slices.Contains(hostDrivers[:], name):
			return nil, step.Errorf(step.KindInvalid, "configuration: drivers.%s.region: the driver's sandboxes are on this host, which is in %s", name, c.Region)
		}
		out[name] = region
	}
	return out, nil
}

// withoutRegion is what the plugin gets of its configuration.
func withoutRegion(v any) any {
	fields, ok := v.(map[string]any)
	if !ok || fields[regionKey] == nil {
		return v
	}
	fields = maps.Clone(fields)
	delete(fields, regionKey)
	return fields
}

// places says of drivers where their sandboxes are.
type places struct {
	metrics.Source
	host string // the region of those that have none of their own

	mu sync.Mutex
	at map[string]string
}

func (p *places) set(regions map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = regions
}

// put says where one driver's sandboxes are; "" is on this host.
func (p *places) put(name, region string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[name] = region
}

// Infos implements metrics.Source.
func (p *places) Infos() []wire.DriverInfo {
	all := p.Source.Infos()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range all {
		all[i].Region = cmp.Or(p.at[all[i].Name], p.host)
	}
	return all
}
