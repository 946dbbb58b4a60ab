package gateway

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/plugins/egress"
)

// Counters lie in a file that the driver reads at any time.
type Counters struct {
	page []byte

	mu   sync.Mutex
	told bool
}

// OpenCounters maps the file, which has egress.CountersSize bytes.
func OpenCounters(fd int) (*Counters, error) {
	page, err := unix.Mmap(fd, 0, egress.CountersSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return &Counters{page: page}, err
}

func (c *Counters) word(i int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&c.page[8*i])) //nolint:gosec // a page is aligned, and longer than that
}

// Ready says that the network is there.
func (c *Counters) Ready() { c.word(egress.WordReady).Store(1) }

// Received counts bytes that came for the sandbox.
func (c *Counters) Received(n int) { c.word(egress.WordReceived).Add(uint64(max(n, 0))) } //nolint:gosec // not negative

// Sent counts bytes that the sandbox sent.
func (c *Counters) Sent(n int) { c.word(egress.WordSent).Add(uint64(max(n, 0))) } //nolint:gosec // not negative

// Refuse counts a call that the policy refused, and keeps the reason of the first.
func (c *Counters) Refuse(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.told {
		c.told = true
		why = why[:min(len(why), egress.MaxRefusal)]
		copy(c.page[egress.RefusalAt+2:], why)
		binary.LittleEndian.PutUint16(c.page[egress.RefusalAt:], uint16(len(why))) //nolint:gosec // bounded above
	}
	c.word(egress.WordRefused).Add(1)
}
