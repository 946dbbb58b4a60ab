package step

// MaxRegions bounds an order of regions.
const MaxRegions = 16

// ValidRegion reports whether text can be the name of a region: 1 to 63 of
// a-z, 0-9 and -, the first of which is not a -.
func ValidRegion(text string) bool {
	if text == "" || len(text) > 63 || text[0] == '-' {
		return false
	}
	for i := range len(text) {
		if c := text[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
