package offsets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// FileStore keeps the position in a small JSON file. A save replaces the file
// as a whole and returns only when the new one is on disk, so a crash leaves
// either the old position or the new one. A symbolic link is followed, and stays.
//
// A process that was stopped and replaced, and wakes up, must not put its old
// position over the new one: a save fails if the file is not as this store left it.
//
// A file system that does not answer is waited for until the context ends; the call
// that hangs is left behind, and the store refuses every other until it returns.
type FileStore struct {
	path  string
	seen  []byte // what was loaded or saved last; nil: no file, or not loaded yet
	known bool   // it was loaded
	tidy  bool   // no temporary files of others are left
	busy  chan struct{}
}

const (
	// maxFile bounds what is read: a position takes less than 1 kB.
	maxFile = 64 << 10
	// leftover is how old a temporary file is that nobody will rename any more.
	leftover = time.Minute
)

// ErrStoreTaken is the error of a save over what another process has stored.
var ErrStoreTaken = errors.New("another process has stored a position since")

// NewFileStore returns a store at path. Its folder must exist.
func NewFileStore(path string) *FileStore {
	return &FileStore{path: path, busy: make(chan struct{}, 1)}
}

// bounded runs f, which uses the file system, until ctx ends.
func (s *FileStore) bounded(ctx context.Context, f func() error) error {
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: the file system does not answer: %w", s.path, context.Cause(ctx))
	}
	done := make(chan error, 1)
	go func() {
		err := f()
		<-s.busy
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: the file system does not answer: %w", s.path, context.Cause(ctx))
	}
}

// Load returns nil when the file does not exist. A file that cannot be
// understood is an error, never "no position".
func (s *FileStore) Load(ctx context.Context) (p *Position, err error) {
	var at *Position
	err = s.bounded(ctx, func() (err error) {
		at, err = s.load()
		return err
	})
	if err != nil {
		return nil, err
	}
	return at, nil
}

func (s *FileStore) load() (*Position, error) {
	data, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		s.seen, s.known = nil, true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read stored position: %w: %w", ErrUnusable, err)
	}
	s.seen, s.known = data, true
	p, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read stored position: %w: %s: %w; put the file back as it was, or remove it to resume at the slot's own position", ErrUnusable, s.path, err)
	}
	return &p, nil
}

// read reads the file, if it is one: a pipe would be waited for.
func (s *FileStore) read() ([]byte, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s)", s.path, info.Mode().Type())
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes, which no position is", s.path, maxFile)
	}
	return data, err
}

// Save writes a temporary file beside the old one, makes it durable, renames
// it, and makes the rename durable.
func (s *FileStore) Save(ctx context.Context, p Position) error {
	return s.bounded(ctx, func() error { return s.save(p) })
}

func (s *FileStore) save(p Position) (err error) {
	data := append(p.Encode(), '\n')
	if now, err := s.read(); (s.known || s.seen != nil) && err == nil && !bytes.Equal(now, s.seen) {
		return fmt.Errorf("%s: %w", s.path, ErrStoreTaken)
	}
	target, err := s.target()
	if err != nil {
		return err
	}
	dir := filepath.Dir(target)
	if !s.tidy {
		removeLeftovers(target)
		s.tidy = true
	}
	f, err := os.CreateTemp(dir, filepath.Base(target)+".*")
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
	if err = os.Rename(f.Name(), target); err != nil {
		return err
	}
	s.seen = data
	return syncDir(dir)
}

// target is the file that the path leads to, which need not exist.
func (s *FileStore) target() (string, error) {
	target, err := filepath.EvalSymlinks(s.path)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	link, err := os.Readlink(s.path)
	if err != nil {
		return s.path, nil // there is nothing yet
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(filepath.Dir(s.path), link)
	}
	return link, nil
}

var leftoverName = regexp.MustCompile(`^\.[0-9]+$`)

// removeLeftovers removes the temporary files of processes that were killed while
// they saved.
func removeLeftovers(path string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return // they are only untidy
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok || !leftoverName.MatchString(rest) {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > leftover {
			_ = os.Remove(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
