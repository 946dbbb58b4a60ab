package breaker

import "strings"

// Lane names what one breaker stands before, besides the driver: a handler, or
// a handler's steps of one tenant.
type Lane struct {
	Handler string // the manifest's tool
	Tenant  string // "" = of all
}

// String is the lane as it is kept. Neither part holds a line break.
func (l Lane) String() string {
	if l.Tenant == "" {
		return l.Handler
	}
	return l.Handler + "\n" + l.Tenant
}

// ParseLane is the opposite of String.
func ParseLane(text string) Lane {
	handler, tenant, _ := strings.Cut(text, "\n")
	return Lane{Handler: handler, Tenant: tenant}
}
