package onestep

import (
	"slices"

	"github.com/nofx-run/nofx/sdk/step"
)

// Regions is what was typed for --region, as a plan says it: one, or an order.
func Regions(typed []string) (one string, order []string, err error) {
	if len(typed) == 0 {
		return "", nil, step.Errorf(step.KindInvalid, "--region is empty: give it a value or leave it out")
	}
	for i, r := range typed {
		switch {
		case !step.ValidRegion(r):
			return "", nil, step.Errorf(step.KindInvalid, "--region %.80q: 1 to 63 of a-z, 0-9 and -, and first no -", r)
		case slices.Contains(typed[:i], r):
			return "", nil, step.Errorf(step.KindInvalid, "--region: %s is there twice", r)
		}
	}
	if len(typed) == 1 {
		return typed[0], nil, nil
	}
	return "", typed, nil
}
