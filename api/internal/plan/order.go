package plan

import "fmt"

// order resolves depends_on and finds names that are missing, double or in a
// circle.
func order(f *faults, steps []Step, depends [][]string) {
	place := make(map[string]int, len(steps))
	for i, s := range steps {
		if first, double := place[s.Name]; double {
			f.add(fmt.Sprintf("body.plan.steps[%d].name", i), s.Name, "step %d has the same name", first)
			continue
		}
		place[s.Name] = i
	}
	for i, names := range depends {
		at := fmt.Sprintf("body.plan.steps[%d].depends_on", i)
		if len(names) > maxDepends {
			f.add(at, len(names), "at most %d", maxDepends)
			continue
		}
		seen := map[int]bool{}
		for j, name := range names {
			on, ok := place[name]
			switch {
			case !ok:
				f.add(fmt.Sprintf("%s[%d]", at, j), name, "no step has this name")
			case on == i:
				f.add(fmt.Sprintf("%s[%d]", at, j), name, "a step cannot depend on itself")
			case !seen[on]: // a name twice means the same as once
				seen[on] = true
				steps[i].DependsOn = append(steps[i].DependsOn, on)
			}
		}
	}
	if len(f.list) > 0 {
		return
	}
	if i := circle(steps); i >= 0 {
		f.add(fmt.Sprintf("body.plan.steps[%d].depends_on", i), steps[i].Name, "the steps depend on one another in a circle")
	}
}

// circle is the place of a step on a circle, or -1.
func circle(steps []Step) int {
	left := make([]int, len(steps))
	below := make([][]int, len(steps))
	var ready []int
	for i, s := range steps {
		left[i] = len(s.DependsOn)
		for _, on := range s.DependsOn {
			below[on] = append(below[on], i)
		}
		if left[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		for _, b := range below[i] {
			if left[b]--; left[b] == 0 {
				ready = append(ready, b)
			}
		}
	}
	for i, n := range left {
		if n > 0 {
			return i
		}
	}
	return -1
}
