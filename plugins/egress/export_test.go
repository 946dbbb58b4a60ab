package egress

// PID of a sandbox's gateway.
func (u Use) PID() int { return u.pid }
