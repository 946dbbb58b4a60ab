package pg

// FewRows are the planner's settings for the system's connections.
func FewRows() map[string]string { return fewRows() }
