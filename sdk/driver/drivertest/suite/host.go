package suite

import (
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

func hostCases() []testCase {
	return []testCase{
		{"Invoke", func(t T, fx *fixture) {
			inv, ok := fx.d.(driver.Invoker)
			if fx.desc.Capabilities.Has(driver.CapInvoke) {
				if !ok {
					t.Error("the driver declares invoke and does not implement it")
				}
				return // what a function does is for the driver's own tests
			}
			if ok {
				_, err := inv.Invoke(fx.ctx(t), driver.Invocation{ID: "i-" + random(), Tags: driver.Tags{Owner: fx.owner, ID: "x"}})
				wantKind(t, "invoke", err, step.KindUnsupported)
			}
		}},
		{"HostSpec", func(t T, fx *fixture) {
			if !fx.desc.Capabilities.Has(driver.CapHost) {
				t.Skip("the driver does not declare host; its refusal is in RefusesWhatItCannot")
			}
			if fx.spec(t).Host == nil {
				t.Error("the driver declares host, so its factory must fill Spec.Host")
			}
		}},
	}
}
