//go:build race

package e2e

// raceEnabled makes the connector under test a race-detecting build too.
const raceEnabled = true
