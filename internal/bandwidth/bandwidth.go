// Package bandwidth turns a cap on processor time into the kernel's form. Who
// caps a group and who caps one below it have to come to the same numbers:
// cgroup v1 refuses a group more than the one above it has.
package bandwidth

const minQuota = 1000 // µs

// Of gives what the kernel takes for a number of cores, in µs: quota of each
// period. The period is short, so that a step that has used its quota up is soon
// on again, and that its neighbours wait for it no longer than a few
// milliseconds; a quota may not be below one millisecond.
func Of(cores float64) (quota, period int64) {
	p := 10_000.0
	if cores*p < minQuota {
		p *= 10
	}
	return max(int64(cores*p), minQuota), int64(p)
}
