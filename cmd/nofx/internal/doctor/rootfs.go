package doctor

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configFile is where systemd's nofxd has its configuration.
const configFile = "etc/nofx/nofxd.yaml"

// rootfs tells what steps on the driver local see as their root.
func (h Host) rootfs() []Finding {
	const (
		development = "production: steps see the host's own /usr, for development only"
		fix         = "nofx rootfs build NAME, then drivers: {local: {rootfs: /var/lib/nofx/rootfs/NAME}} in /" + configFile + "; nofx up --rootfs NAME"
	)
	data, err := fs.ReadFile(h.FS, configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{check("root file system", "no /"+configFile, false, Missing, development, fix)}
	}
	var c struct {
		Drivers struct {
			Local struct {
				RootFS string `yaml:"rootfs"`
			} `yaml:"local"`
		} `yaml:"drivers"`
	}
	if err == nil {
		err = yaml.Unmarshal(data, &c)
	}
	if err != nil {
		return []Finding{check("root file system", err.Error(), false, Missing, development, "mend /"+configFile)}
	}
	tree := c.Drivers.Local.RootFS
	if tree == "" || tree == "host" {
		return []Finding{check("root file system", "the host's own", false, Missing, development, fix)}
	}
	name := strings.TrimPrefix(path.Clean(tree), "/")
	return []Finding{check("root file system", tree, h.exists(name), Missing, "the driver local: that folder is not there", fix)}
}
