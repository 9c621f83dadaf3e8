package status

// UseMask makes the counter of a path of value.mask appear, before it has counted
// anything.
func (s *Status) UseMask(path string) { s.unmasked.WithLabelValues(path) }

// Unmasked counts a payload in which a path of value.mask selects nothing.
func (s *Status) Unmasked(path string) { s.unmasked.WithLabelValues(path).Inc() }
