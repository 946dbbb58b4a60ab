package bandwidth

import "testing"

func TestOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cores         float64
		quota, period int64
	}{
		{2, 20_000, 10_000}, {0.5, 5000, 10_000}, {0.33333, 3333, 10_000}, {0.1, 1000, 10_000},
		{0.05, 5000, 100_000}, {0.01, 1000, 100_000}, {0.001, 1000, 100_000},
	} {
		if quota, period := Of(c.cores); quota != c.quota || period != c.period {
			t.Errorf("%v cores: %d of %d", c.cores, quota, period)
		}
	}
}
