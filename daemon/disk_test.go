package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

type twoDrivers struct{}

func (twoDrivers) Driver(string) (driver.Driver, error) {
	return nil, step.Errorf(step.KindNotFound, "none")
}

func (twoDrivers) Infos() []wire.DriverInfo {
	return []wire.DriverInfo{{Name: "local", Healthy: true}, {Name: "container", Message: "no Docker"}}
}

// With a full disk no driver can be had, until there is room for a while.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	var room uint64
	var broken error
	d := &disk{Source: twoDrivers{}, room: func() (uint64, error) { return room, broken }, log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		room   uint64
		broken error
		well   bool
	}{
		{room: 1 << 30, well: true}, {room: leastRoom, well: true}, {room: leastRoom - 1}, {room: roomAgain - 1}, {room: roomAgain, well: true},
		{room: roomAgain - 1, well: true}, {room: 0}, {broken: errors.New("no such device"), well: true},
	} {
		room, broken = c.room, c.broken
		got := d.Infos()
		if got[0].Healthy != c.well || (got[0].Message == "") != c.well || !c.well && !strings.Contains(got[0].Message, "is full") || got[1].Message != "no Docker" ||
			got[0].Full == c.well || got[1].Full == c.well {
			t.Errorf("with %d bytes: %+v", c.room, got)
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if n, err := roomOf(dir)(); err != nil || n < roomAgain {
		t.Errorf("on a file system without a size are %d bytes, %v", n, err)
	}
	if n, err := roomOf(t.TempDir())(); err != nil || n == 0 {
		t.Errorf("here are %d bytes, %v", n, err)
	}
}
