package republish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"outboxd/internal/table"
)

// state is how far a run is, as a file: so that one that was killed can go on. What
// was published since it was written last is published again.
type state struct {
	path string
	// Filter is what was selected: with another one the file says nothing.
	Filter table.Filter `json:"filter"`
	// After is the last row that was published, Events how many were.
	After  table.Key `json:"after"`
	Events int64     `json:"events"`
}

// loadState reads the file, or begins one if there is none.
func loadState(path string, f table.Filter) (state, error) {
	s := state{path: path, Filter: f}
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the state file: %w; remove it to begin at the beginning", err)
	}
	// As they are in a file.
	var same state
	plain, err := json.Marshal(state{Filter: f})
	if err == nil {
		err = json.Unmarshal(plain, &same)
	}
	if err == nil && !reflect.DeepEqual(s.Filter, same.Filter) {
		err = fmt.Errorf("the state file %s is of a run that selected other rows; name another file, or remove it to begin at the beginning", path)
	}
	return s, err
}

// save replaces the file.
func (s *state) save(after table.Key, events int64) error {
	s.After, s.Events = after, events
	if s.path == "" {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*")
	if err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write the state file: %w", err)
	}
	return nil
}

// remove removes the file of a run that is done.
func (s *state) remove() error {
	if s.path == "" {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the state file: %w", err)
	}
	return nil
}
