//go:build !synctests

package simulate

// maxBrokers: see several.go. `make simulate` has the build tag.
const maxBrokers = 1
