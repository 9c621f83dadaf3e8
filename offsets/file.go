package offsets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileStore keeps the position in a small JSON file. A save replaces the file
// as a whole and returns only when the new one is on disk, so a crash leaves
// either the old position or the new one.
//
// A process that was stopped and replaced, and wakes up, must not put its old
// position over the new one: a save fails if the file is not as this store left it.
type FileStore struct {
	path string
	seen []byte // what was loaded or saved last; nil: no file, or not loaded yet
}

// ErrStoreTaken is the error of a save over what another process has stored.
var ErrStoreTaken = errors.New("another process has stored a position since")

// NewFileStore returns a store at path. Its folder must exist.
func NewFileStore(path string) *FileStore { return &FileStore{path: path} }

// Load returns nil when the file does not exist. A file that cannot be
// understood is an error, never "no position".
func (s *FileStore) Load(context.Context) (*Position, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.seen = nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read stored position: %w: %w", ErrUnusable, err)
	}
	s.seen = data
	p, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read stored position: %w: %s: %w; put the file back as it was, or remove it to go on from the slot's own position", ErrUnusable, s.path, err)
	}
	return &p, nil
}

// Save writes a temporary file beside the old one, makes it durable, renames
// it, and makes the rename durable.
func (s *FileStore) Save(_ context.Context, p Position) (err error) {
	data := append(p.Encode(), '\n')
	if now, err := os.ReadFile(s.path); s.seen != nil && err == nil && !bytes.Equal(now, s.seen) {
		return fmt.Errorf("%s: %w", s.path, ErrStoreTaken)
	}
	dir := filepath.Dir(s.path)
	f, err := os.CreateTemp(dir, filepath.Base(s.path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), s.path); err != nil {
		return err
	}
	s.seen = data
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
