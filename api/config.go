// Package api is the control API as a program: configuration, the services it
// is made of, and their life.
package api

import (
	"errors"
	"fmt"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/nofx-run/nofx/api/internal/retention"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
)

// Config comes from the environment.
type Config struct {
	DatabaseURL       string `env:"NOFX_DATABASE_URL,required,notEmpty"`        // as nofx_api
	SystemDatabaseURL string `env:"NOFX_SYSTEM_DATABASE_URL,required,notEmpty"` // as nofx_system
	Listen            string `env:"NOFX_LISTEN" envDefault:"127.0.0.1:7443"`
	TLSCertFile       string `env:"NOFX_TLS_CERT_FILE,required,notEmpty"`
	TLSKeyFile        string `env:"NOFX_TLS_KEY_FILE,required,notEmpty"`
	// KeysetFile holds the keys with which what is sensitive is sealed; "" = none,
	// and what is sensitive is refused.
	KeysetFile  string `env:"NOFX_KEYSET_FILE"`
	BlobDir     string `env:"NOFX_BLOB_DIR,required,notEmpty"`
	HandlersDir string `env:"NOFX_HANDLERS_DIR"` // "" = the manifests that NOFX ships
	// ProfilesFile holds the named sizes of steps; "" = those that NOFX ships.
	ProfilesFile string `env:"NOFX_PROFILES_FILE"`
	// NetworkPresetsFile holds the names that a step's network list may use; ""
	// = those that NOFX ships.
	NetworkPresetsFile string        `env:"NOFX_NETWORK_PRESETS_FILE"`
	Lease              time.Duration `env:"NOFX_LEASE" envDefault:"90s"`
	Heartbeat          time.Duration `env:"NOFX_HEARTBEAT" envDefault:"10s"`
	Region             string        `env:"NOFX_REGION" envDefault:"local"`
	DBConns            int           `env:"NOFX_DB_CONNS" envDefault:"10"` // of each of the two pools
	DrainTimeout       time.Duration `env:"NOFX_DRAIN_TIMEOUT" envDefault:"20s"`
	DriverWait         time.Duration `env:"NOFX_DRIVER_WAIT" envDefault:"15m"`    // for a worker that has a step's driver; 0 = for ever
	RegionWait         time.Duration `env:"NOFX_REGION_WAIT" envDefault:"30s"`    // without a worker for it in a step's region, before it goes to another; 0 = for ever
	TickToken          string        `env:"NOFX_TICK_TOKEN"`                      // lets POST /api/tick do the background work; "" = nobody may
	AlertAllow         string        `env:"NOFX_ALERT_ALLOW"`                     // prefixes that receivers of alerts may be in though they are not on the Internet, with commas
	AlertCAFile        string        `env:"NOFX_ALERT_CA_FILE"`                   // who signed receivers' certificates; "" = the host's list
	WorkspaceWait      time.Duration `env:"NOFX_WORKSPACE_WAIT" envDefault:"15m"` // for a lost worker that has a run's workspace
	WorkspaceKeep      time.Duration `env:"NOFX_WORKSPACE_KEEP" envDefault:"15m"` // of a failed run, so that its steps can be tried again; 0 = not at all
	QueuePressure      time.Duration `env:"NOFX_QUEUE_PRESSURE" envDefault:"60s"` // age of a tenant's oldest step that is told in its run; 0 = none is
	MaxProjects        int           `env:"NOFX_MAX_PROJECTS" envDefault:"1000"`  // of one tenant
	Retain             retention.Keep

	Points failpoint.Points `env:"-"` // where tests hold it
}

// maxQueuePressure is more than anybody waits to hear of.
const maxQueuePressure = 24 * time.Hour

// maxDriverWait is less than how long it is remembered when a driver was there.
const maxDriverWait = 7 * 24 * time.Hour

// maxWorkspaceKeep bounds how long folders of ended runs use up a worker's disk.
const maxWorkspaceKeep = 7 * 24 * time.Hour

// maxProjects is more than a run's submission should count.
const maxProjects = 1_000_000

// FromEnv reads the configuration. Its errors name variables, not values.
func FromEnv() (Config, error) {
	var c Config
	if err := env.Parse(&c); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, c.check()
}

func (c Config) check() error {
	var errs []error
	if c.Lease < time.Second || c.Lease > time.Hour {
		errs = append(errs, errors.New("NOFX_LEASE must be 1s to 1h"))
	}
	if c.Heartbeat < 50*time.Millisecond || c.Heartbeat*2 > c.Lease {
		errs = append(errs, errors.New("NOFX_HEARTBEAT must be at least 50ms and at most half of NOFX_LEASE"))
	}
	if c.DriverWait != 0 && c.DriverWait < time.Second || c.DriverWait > maxDriverWait {
		errs = append(errs, errors.New("NOFX_DRIVER_WAIT must be 0, for ever, or 1s to 168h"))
	}
	if c.RegionWait != 0 && c.RegionWait < time.Second || c.RegionWait > maxDriverWait {
		errs = append(errs, errors.New("NOFX_REGION_WAIT must be 0, for ever, or 1s to 168h"))
	}
	if !step.ValidRegion(c.Region) {
		errs = append(errs, errors.New("NOFX_REGION must be 1 to 63 of a-z, 0-9 and -, and first no -"))
	}
	if c.TickToken != "" && (len(c.TickToken) < 24 || len(c.TickToken) > 500) {
		errs = append(errs, errors.New("NOFX_TICK_TOKEN must have 24 to 500 bytes"))
	}
	if c.WorkspaceKeep < 0 || c.WorkspaceKeep > maxWorkspaceKeep {
		errs = append(errs, errors.New("NOFX_WORKSPACE_KEEP must be 0 to 168h"))
	}
	if c.QueuePressure != 0 && c.QueuePressure < time.Second || c.QueuePressure > maxQueuePressure {
		errs = append(errs, errors.New("NOFX_QUEUE_PRESSURE must be 0, for never, or 1s to 24h"))
	}
	if c.MaxProjects < 0 || c.MaxProjects > maxProjects {
		errs = append(errs, errors.New("NOFX_MAX_PROJECTS must be 1 to 1000000; 0 = 1000"))
	}
	errs = append(errs, c.checkRetain())
	if c.DBConns < 2 || c.DBConns > 1000 {
		errs = append(errs, errors.New("NOFX_DB_CONNS must be 2 to 1000"))
	}
	return errors.Join(errs...)
}

func (c Config) checkRetain() error {
	return errors.Join(checkKeep("NOFX_RETAIN_RUNS", "for ever", c.Retain.Runs), checkKeep("NOFX_RETAIN_ARTIFACTS", "as long as their runs", c.Retain.Artifacts))
}
