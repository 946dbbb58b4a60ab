package local

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

func BenchmarkPhases(b *testing.B) {
	d := New()
	b.Cleanup(d.Close)
	if err := d.Configure(context.Background(), config(b)); err != nil {
		b.Fatal(err)
	}
	spec := benchSpec(b, 0)
	var cr, ex, de lap
	ctx := context.Background()
	for i := 0; b.Loop(); i++ {
		spec.ID = fmt.Sprintf("bench-%d", i)
		var h driver.Handle
		var err error
		cr.run(func() { h, err = d.Create(ctx, spec) })
		if err != nil {
			b.Fatal(err)
		}
		ex.run(func() { err = d.Exec(ctx, h, trueSpec("main"), func(e driver.ExecEvent) error { return nil }) })
		de.run(func() { err = d.Destroy(ctx, h) })
	}
	for _, l := range []*lap{&cr, &ex, &de} {
		l.report(b)
		b.Log(b.Name(), len(l.took), l.took[len(l.took)/2], l.took[len(l.took)*99/100])
	}
	_ = time.Now
}
