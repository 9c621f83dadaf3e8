package format

import "errors"

// ErrSchemaRefused means that a subject and what is to be written do not fit
// each other: the registry refuses the envelope's schema, or what it holds
// cannot be used. It concerns every event of the subject, and an operator has
// to look.
var ErrSchemaRefused = errors.New("the schema does not fit its subject")

// RegistryError says that the schema registry did not give what an event needs.
// It may pass.
type RegistryError struct {
	Err error
	// Public is Err without the text of the registry's answer, nil where Err has
	// none of it.
	Public error
}

func (e *RegistryError) Error() string { return e.Err.Error() }
func (e *RegistryError) Unwrap() error { return e.Err }

// Public returns what may be shown of an error to whoever may ask over HTTP: not
// what a schema registry answered, which is the registry's own and may repeat what
// it was sent.
func Public(err error) error {
	var registry *RegistryError
	if errors.As(err, &registry) && registry.Public != nil {
		return registry.Public
	}
	return err
}

// WaitError is an error of what was served while a format waited: it says nothing of
// the event.
type WaitError struct{ Err error }

func (e *WaitError) Error() string { return e.Err.Error() }
func (e *WaitError) Unwrap() error { return e.Err }

// concernsMore tells errors that are not about the one event.
func concernsMore(err error) bool {
	var registry *RegistryError
	var wait *WaitError
	return errors.As(err, &registry) || errors.As(err, &wait) || errors.Is(err, ErrSchemaRefused)
}
